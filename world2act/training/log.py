"""Training curves: means over a few steps and over the ranks, written by dvclive to metrics/<stage>/train."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import torch
from dvclive.live import Live
from torch import Tensor, distributed

from world2act.core.stage import METRICS, is_main
from world2act.core.storage import atomic_file

_POINTS = 100


class TrainingLog:
    """Every rank adds values; rank 0 writes their means. A resumed run deletes the rows that it will write again."""

    def __init__(self, name: str, steps: int) -> None:
        self._directory = METRICS / name / "train"
        self._every = max(1, steps // _POINTS)
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._live: Live | None = None
        self.latest: dict[str, float] = {}

    def begin(self, step: int) -> None:
        """Start at `step`: with an empty log if it is 0, otherwise after the rows of earlier steps."""
        if not is_main():
            return
        if step == 0:
            shutil.rmtree(self._directory, ignore_errors=True)
        for table in self._directory.glob("plots/metrics/**/*.tsv"):
            _drop_rows_from(table, step)
        self._live = Live(str(self._directory), resume=step > 0, report=None, save_dvc_exp=False, dvcyaml=None)

    def add(self, metrics: dict[str, Tensor | float]) -> None:
        """Add the scalars of a step, or of a part of it; always the same keys."""
        for key, value in metrics.items():
            scalar = torch.as_tensor(value, dtype=torch.float32).detach()
            self._sums[key] = self._sums[key] + scalar if key in self._sums else scalar
        self._count += 1

    def end_step(self, step: int) -> None:
        """Write a row if one is due after this step."""
        if (step + 1) % self._every == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Write the means since the last row as the row of `step`."""
        if not self._count:
            return
        means = torch.stack([self._sums[key].cpu() for key in sorted(self._sums)]) / self._count
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
        self.latest = dict(zip(sorted(self._sums), means.tolist(), strict=True))
        if self._live is not None:
            self._live.step = step
            for key, value in self.latest.items():
                self._live.log_metric(key, value)
            self._live.make_summary()
        self._sums, self._count = {}, 0

    def end(self) -> None:
        if self._live is not None:
            self._live.end()


def _drop_rows_from(table: Path, step: int) -> None:
    rows = list(csv.DictReader(io.StringIO(table.read_text()), delimiter="\t"))
    kept = [row for row in rows if int(row["step"]) < step]
    with atomic_file(table) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def read_curves(name: str) -> dict[str, list[tuple[int, float]]]:
    """The curves of a finished training stage: metric → (step, value) rows."""
    tables = sorted((METRICS / name / "train/plots/metrics").glob("*.tsv"))
    rows = {table.stem: csv.DictReader(io.StringIO(table.read_text()), delimiter="\t") for table in tables}
    return {metric: [(int(row["step"]), float(row[metric])) for row in reader] for metric, reader in rows.items()}
