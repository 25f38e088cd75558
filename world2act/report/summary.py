"""The table at the end of a run: what the stages left on disk, printed on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table

from world2act.core.params.evaluation import RANDOM
from world2act.core.storage import read_json
from world2act.evaluation.summary import Summary
from world2act.post_training.description import describe_method
from world2act.report.sources import Stage, read_params, read_stages
from world2act.report.wording import label, memory, percent, seconds, verdict

_COLOURS = {"green": "green", "amber": "yellow", "red": "red", "unknown": "dim", "none": "dim"}
_COLUMNS: dict[str, JustifyMethod] = {"stage": "left", "time": "right", "memory": "right", "gate": "left", "": "left"}
_NUMBER: Callable[[float], str] = "{:.3g}".format
Figures = dict[str, tuple[str, Callable[[Any], str]]]
# The most telling figures of metrics/<stage>/metrics.json: what they are called here, and how they are formatted.
_FIGURES: dict[str, Figures] = {
    "demos": {"labelled_episodes": ("labelled", str), "video_only_episodes": ("video-only episodes", str)},
    "skills": {"clips": ("clips", str), "synchronised": ("synchronised", percent)},
    "tokenizer": {"psnr_db": ("dB PSNR", "{:.1f}".format)},
    "latents": {"clips": ("clips", str), "latents": ("latents", str)},
    "world_model": {"train_clips": ("training clips", str)},
    "judge": {
        "error_model": ("error", _NUMBER),
        "error_skill_mean": ("skill mean", _NUMBER),
        "error_first_frame": ("first frame", _NUMBER),
    },
    "rollouts": {"rollouts": ("rollouts", str), "skills": ("skills", str)},
    "bridge": {"retrieval_over_chance": ("x chance retrieval", "{:.1f}".format)},
    "base_policy": {"success_base": ("base", percent), "success_random": ("random", percent)},
}


def print_summary(root: Path = Path()) -> None:
    """Print stages, times, gates and main figures of the pipeline in `root`, the verdict, and where the report is.

    Raises:
        BadInput: there is no pipeline here, or a result file is damaged.
    """
    stages = read_stages(root)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column, justify in _COLUMNS.items():
        table.add_column(column, justify=justify)
    for stage in stages:
        if stage.name == "report":  # not timed; the last line names its page
            continue
        time, peak = (
            (seconds(stage.cost["wall_s"]), memory(stage.cost["peak_memory_mib"])) if stage.cost else ("not run", "")
        )
        state = f"[{_COLOURS[stage.state]}]{'' if stage.state == 'none' else stage.state}[/]"
        table.add_row(stage.name, time, peak, state, _figures(root, stage))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    total = sum(stage.cost["wall_s"] + (stage.gate_s or 0) for stage in stages if stage.cost)
    console.print(f"\n{seconds(total)} in total, including gates")
    summary = root / "artifacts/evaluate/summary.json"
    if summary.exists():
        evaluation = Summary.read(summary)
        for candidate in evaluation.candidates:
            console.print(verdict(evaluation, candidate)[1])
    report = root / "reports/report.html"
    console.print(f"report: {report}" if report.exists() else "no report yet: `dvc repro report`", markup=False)


def _figures(root: Path, stage: Stage) -> str:
    path = root / "metrics" / stage.name / "metrics.json"
    figures = _FIGURES.get(stage.name) or _figures_of_set(root, stage.name)
    if not figures or not path.exists():
        return ""
    metrics = read_json(path)
    return ", ".join(f"{words} {write(metrics[key])}" for key, (words, write) in figures.items() if key in metrics)


def _figures_of_set(root: Path, stage: str) -> Figures:
    """The figures of the two stages whose metrics depend on params.yaml: on a method, or on a set of policies."""
    if stage == "post_train":
        method = str(read_params(root)["post_train"]["method"])
        return {curve.name: (label(curve.name), _NUMBER) for curve in describe_method(method).HISTORY}
    if stage == "evaluate":
        names = [*read_params(root)["evaluate"]["policies"], RANDOM]
        return {f"success_{name}": (label(name), percent) for name in names}
    return {}
