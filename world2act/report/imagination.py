"""The report's section on imagination: metrics/judge and reports/films as charts, tables and films."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.tables import read_rows
from world2act.report import charts
from world2act.report.html import data_uri
from world2act.world_model.judging.baselines import BASELINES
from world2act.world_model.judging.drift import CHAINED, summarise_chains
from world2act.world_model.judging.object_position import summarise_positions
from world2act.world_model.judging.rows import RECORDED, ChainRow, HeldoutRow, PositionRow

_STRIPS = 6
_MODEL, _CONTROL = "world model", "control: another clip's first frame"
_ERRORS = {
    "error_model": "world model, mean of samples",
    "error_one_sample": "world model, one sample",
    "error_ridge": BASELINES["ridge"],
    "error_nearest": BASELINES["nearest"],
    "error_skill_mean": BASELINES["skill_mean"],
    "error_length_mean": "mean of clips as long",
    "error_first_frame": BASELINES["first_frame"],
    "error_shuffled": _CONTROL,
}
_CORRELATIONS = {
    "correlation": _MODEL,
    "correlation_ridge": BASELINES["ridge"],
    "correlation_nearest": BASELINES["nearest"],
    "correlation_shuffled": _CONTROL,
}
_PICTURES = {"model": "world model, one sample", **BASELINES, "reconstruction": "the recording through the tokenizer"}
_PICTURE_METRICS = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS"}
_READ = {RECORDED: "the recording: what the probe can read", "model": _MODEL, "shuffled": _CONTROL, **BASELINES}


def imagination(root: Path) -> dict[str, object]:
    """Values for the template, by the names that it uses. Raises `BadInput` if a file is missing or damaged."""
    judged, pictures = root / "metrics/judge/tables", root / "reports/films"
    clips = read_rows(judged / "heldout.parquet", HeldoutRow)
    errors = {label: mean(_column(clips, name)) for name, label in _ERRORS.items()}
    correlations = {label: mean(_column(clips, name)) for name, label in _CORRELATIONS.items()}
    return {
        "heldout_clips": len(clips),
        "errors": charts.bars(
            errors,
            highlight=list(_ERRORS.values())[:1],
            xlabel="mean squared error of normalised latents",
            width=charts.HALF,
        ),
        "correlations": charts.bars(
            correlations, highlight=[_MODEL], xlabel="correlation with the true deviation", width=charts.HALF
        ),
        "pictured_clips": sum(clip.psnr_model is not None for clip in clips),
        "pictures": _pictures(clips),
        **_chains(judged / "chains.parquet"),
        "positions": _positions(judged / "positions.parquet"),
        "films": films(pictures / "world_model"),
        "previews": strips(pictures / "world_model"),
        "rollouts": strips(pictures / "rollouts"),
        "rollout_films": films(pictures / "rollouts"),
        "reconstructions": strips(pictures / "tokenizer")[:2],
    }


def _column(clips: Sequence[HeldoutRow], name: str) -> list[float | None]:
    return [getattr(clip, name) for clip in clips]


def _pictures(clips: Sequence[HeldoutRow]) -> dict[str, object]:
    """A table: columns, and label → values."""
    measured = [
        metric for metric in _PICTURE_METRICS if any(value is not None for value in _column(clips, f"{metric}_model"))
    ]
    return {
        "columns": [_PICTURE_METRICS[metric] for metric in measured],
        "rows": {
            label: [mean(_column(clips, f"{metric}_{name}")) for metric in measured]
            for name, label in _PICTURES.items()
        },
    }


def _chains(path: Path) -> dict[str, object]:
    rows = read_rows(path, ChainRow)
    summary = summarise_chains([vars(row) for row in rows])
    drifts = {**CHAINED, "ridge": BASELINES["ridge"], "skill_mean": BASELINES["skill_mean"]}
    named = {label: summary.get(f"drift_{name.replace(' ', '_')}", {}) for name, label in drifts.items()}
    labels = {**CHAINED, **BASELINES, RECORDED: "the recording"}
    jumps = {
        label: [summary.get(column, {}).get(name.replace(" ", "_")) for column in ("jump_latents", "jump_frames")]
        for name, label in labels.items()
    }
    shown = any(values[0] is not None for values in jumps.values())
    return {
        "chained_episodes": len({row.episode_index for row in rows}),
        "drift": charts.groups(
            {
                label: {f"skill {int(skill) + 1}": value for skill, value in errors.items()}
                for label, errors in named.items()
            },
        )
        if rows
        else None,
        "jumps": {label: values for label, values in jumps.items() if values[0] is not None} if shown else {},
    }


def _positions(path: Path) -> dict[str, list[float]]:
    """Label → error in cm, R² and correlation at the start and at the end, correlation of the move."""
    summary = summarise_positions([vars(row) for row in read_rows(path, PositionRow)])
    return {
        label: [
            *(summary[name][when][figure] for when in ("start", "end") for figure in ("error_cm", "r2", "correlation")),
            summary[name]["move"]["correlation"],
        ]
        for name, label in _READ.items()
        if name in summary
    }


def films(folder: Path) -> list[dict[str, str]]:
    """The mp4 files of a folder, as names and data URIs."""
    paths = sorted(folder.glob("*.mp4"))
    return [{"name": _name(path.stem), "source": data_uri(path.read_bytes(), "video/mp4")} for path in paths]


def strips(folder: Path) -> list[dict[str, str]]:
    """Up to six PNG strips of a folder, evenly spaced. Raises `BadInput` if there is none."""
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise BadInput(folder, "", "no picture", "PNG strips", "run `dvc repro -f films`")
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, _STRIPS).round().astype(int))]
    return [{"name": _name(path.stem), "source": data_uri(path.read_bytes(), "image/png")} for path in chosen]


def _name(stem: str) -> str:
    """A caption from a file name, which is <task>-episode-<episode> or <rollout>-<task>."""
    stem = re.sub(r"^(.+)-episode-(\d+)$", r"\1, episode \2", stem)
    return re.sub(r"^(\d+)-(.+)$", r"\2, rollout \1", stem)


def mean(values: Sequence[float | bool | None]) -> float:
    """The mean of the values that are not None; 0 if there are none."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
