"""How a stage runs: parameters in, metrics and timing out, an error a user can act on as one message."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from world2act.core.errors import World2ActError
from world2act.core.local_files import check_local_files
from world2act.core.messages import one_message
from world2act.core.params import Params, load_params
from world2act.core.storage import read_json, write_json

ARTIFACTS, METRICS, REPORTS, RUNS = Path("artifacts"), Path("metrics"), Path("reports"), Path("runs")
DRY_RUN = "--dry-run"
LAUNCHED_AT = "WORLD2ACT_LAUNCHED_AT"
"""The variable in which a launcher tells its ranks when it began, in seconds since the epoch."""

Metrics = Mapping[str, float | int | str | bool | Mapping[str, float | int | None] | None]


def run_stage(name: str, body: Callable[[Params], Metrics]) -> None:
    """Run one stage in the current directory, the root of the pipeline.

    Writes metrics/<name>/metrics.json and reports/timing/<name>.json from rank 0, then deletes the checkpoints of
    the training run that ended in this artifact. Exits as `one_message` does.
    """
    with one_message(name), suppress(DryRunDone):
        if is_dry_run() and "WORLD_SIZE" not in os.environ:
            raise World2ActError(f"{DRY_RUN} is for training stages: python -m world2act.training.launch stages.STAGE")
        params = load_params()
        check_local_files(name, params)
        metrics = body(params)
        if is_main():
            write_json(METRICS / name / "metrics.json", metrics)
            write_json(REPORTS / "timing" / f"{name}.json", _cost() | _finish_runs(name))


class DryRunDone(Exception):
    """A dry run has said what it had to; the stage goes no further."""


def is_dry_run() -> bool:
    """Whether this process was told to take no step and write nothing."""
    return DRY_RUN in sys.argv[1:]


def is_main() -> bool:
    """Whether this process is the first (or only) rank."""
    return os.environ.get("RANK", "0") == "0"


def _finish_runs(name: str) -> dict[str, float]:
    training: dict[str, float] = {}
    for done in sorted((RUNS / name).glob("*/done.json")):
        training |= read_json(done)
        shutil.rmtree(done.parent)
    return training


def _cost() -> dict[str, float]:
    """Wall time since the process or its launcher began, imports included, and the memory of its largest process."""
    began = os.environ.get(LAUNCHED_AT) or psutil.Process().create_time()
    wall_s = time.time() - float(began)
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"wall_s": round(wall_s, 2), "peak_memory_mib": round(max(peaks) / 1024, 1)}
