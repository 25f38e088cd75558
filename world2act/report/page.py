"""reports/report.html: one self-contained page. Every input is a file of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from world2act.bridge.rows import RetrievalRow
from world2act.core.storage import read_json, read_parquet
from world2act.core.tables import read_rows
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.evaluation.summary import Summary
from world2act.post_training.description import describe_method
from world2act.report import charts, sources
from world2act.report.drawing import draw_pipeline
from world2act.report.html import data_uri, load_template, png, style
from world2act.report.imagination import imagination, mean
from world2act.report.wording import verdict

_FRAMES = 8
_TRAINED = ("tokenizer", "world_model", "base_policy", "bridge", "post_train")

Fields = dict[str, object]
"""Values for the template, by the names that it uses."""


def render(root: Path) -> str:
    """Render the report of the pipeline in `root`.

    Raises:
        BadInput: a file that the report shows is missing or damaged.
    """
    stages = sources.read_stages(root)
    return load_template("report.html.j2").render(
        style=style(),
        **_pipeline(root, stages),
        **_learning(root),
        **imagination(root),
        **_alignment(root),
        **_evaluation(root),
        **_data(root),
    )


def _pipeline(root: Path, stages: Sequence[sources.Stage]) -> Fields:
    params = sources.read_params(root)
    ran = [stage for stage in stages if stage.cost]
    gates = [stage for stage in stages if stage.gate]
    return {
        "stages": stages,
        "drawing": draw_pipeline(stages),
        "gates": gates,
        "green": sum(stage.state in ("green", "amber") for stage in gates),
        "wall_s": sum(stage.cost["wall_s"] + (stage.gate_s or 0) for stage in ran if stage.cost),
        "peak_mib": max((stage.cost["peak_memory_mib"] for stage in ran if stage.cost), default=0.0),
        "profile": params.get("profile", "?"),
        "params": _flat(params),
        "lineage": sources.lineage(root, list(stages)),
    }


def _evaluation(root: Path) -> Fields:
    summary = Summary.read(root / "artifacts/evaluate/summary.json")
    return {
        "evaluation": summary,
        "pairs": max(candidate.pooled.count for candidate in summary.candidates.values()),
        "verdicts": {name: verdict(summary, name) for name in summary.candidates},
        "shown_policies": list(charts.policy_colours(summary))[::-1],
        "success": charts.success_bars(summary),
        "videos": _videos(root / "artifacts/evaluate/videos"),
    }


def _data(root: Path) -> Fields:
    dataset = EpisodeDataset.open(root / "artifacts/demos/labelled")
    skills = [row for row in read_rows(root / "artifacts/skills/skills.parquet", SkillRow) if row.dataset == "labelled"]
    examples = {episode.task: episode for episode in reversed(dataset.episodes)}
    shown = []
    for task, episode in sorted(examples.items()):
        which = np.linspace(0, episode.length - 1, _FRAMES).astype(int).tolist()
        strip = np.concatenate(list(dataset.frames(episode.index, dataset.cameras[0], which)), axis=1)
        prompts = [row.prompt for row in skills if row.episode_index == episode.index]
        shown.append({"task": task, "instruction": episode.instruction, "prompts": prompts, "strip": png(strip)})
    return {
        "examples": shown,
        "lengths": charts.lengths(sources.read_clip_lengths(root)),
        "skills": read_json(root / "metrics/skills/metrics.json"),
        "demos": read_json(root / "metrics/demos/metrics.json"),
    }


def _alignment(root: Path) -> Fields:
    clips = read_rows(root / "artifacts/bridge/heldout.parquet", RetrievalRow)
    retrieval = {
        "among all clips": mean([clip.rank == 1 for clip in clips]),
        "chance among all clips": mean([1 / clip.candidates for clip in clips]),
        "within its skill": mean([clip.rank_same_skill == 1 for clip in clips]),
        "chance within its skill": mean([1 / clip.candidates_same_skill for clip in clips]),
    }
    highlight = [name for name in retrieval if "chance" not in name]
    return {
        "bridge_clips": len(clips),
        "retrieval_bars": charts.bars(retrieval, highlight=highlight, xlabel="share of clips", width=charts.THIRD),
    }


def _learning(root: Path) -> Fields:
    losses = {stage: sources.read_curves(root, stage)["loss"] for stage in _TRAINED}
    return {
        "losses": charts.curves({stage.replace("_", " "): points for stage, points in losses.items()}),
        **_post_training(root),
    }


def _post_training(root: Path) -> Fields:
    """The method in use, and the panels that it defines: title → chart."""
    method = describe_method(str(sources.read_params(root)["post_train"]["method"]))
    columns = ["step", *(curve.name for curve in method.HISTORY)]
    history = read_parquet(root / "artifacts/post_train/history.parquet", columns).to_pydict()
    panels: dict[str, dict[str, charts.Points]] = {}
    for curve in method.HISTORY:
        points = list(zip(history["step"], history[curve.name], strict=True))
        panels.setdefault(curve.title, {})[curve.label] = points
    return {
        "method": method.SUMMARY,
        "post_training": {title: charts.together(curves) for title, curves in panels.items()},
    }


def _videos(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Task → its videos, by policy. File names: <policy>-<task>-<seed>-<outcome>.mp4."""
    videos: dict[str, list[dict[str, str]]] = {}
    for path in sorted(folder.glob("*.mp4")):
        policy, *task, seed, outcome = path.stem.split("-")
        video = {
            "policy": policy,
            "seed": seed,
            "outcome": outcome,
            "source": data_uri(path.read_bytes(), "video/mp4"),
        }
        videos.setdefault("-".join(task), []).append(video)
    return dict(sorted(videos.items()))


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Dotted name → value as JSON."""
    rows: dict[str, str] = {}
    for key, value in values.items():
        rows |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": json.dumps(value)}
    return rows
