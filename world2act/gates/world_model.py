"""The gate of artifacts/world_model: checks its weights and what the stage `judge` measured of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.params.gates import GateWorldModel
from world2act.core.stage import METRICS
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.data.latent_cache import LatentCache, open_latents
from world2act.gates.engine.measurements import is_finite, weight_rows
from world2act.gates.engine.tables import Table, provenance_table, weights_table
from world2act.gates.engine.vocabulary import Check, at_least, at_most, is_true, rebuild

_REBUILD = rebuild("world_model", stage="judge")
_TRAIN = "raise world_model.training.steps or demos.video_only_per_task"
_ERRORS = ["error_model", "error_one_sample", "error_first_frame", "error_skill_mean", "error_ridge", "error_nearest"]
_COLUMNS = [
    *("episode_index", "task", "skill_index", "prompt", *_ERRORS, "error_shuffled"),
    *("correlation", "correlation_shuffled", "psnr_reconstruction", "psnr_model"),
]
_ALWAYS, _SOMETIMES = ["correlation"], ["error_shuffled", "correlation_shuffled", "psnr_reconstruction", "psnr_model"]
_CHAIN_COLUMNS = ["episode_index", "task", "skill_index", "prompt", "method", "error", "jump_latents"]
_POSITION_COLUMNS = ["episode_index", "task", "skill_index", "prompt", "method", "when", "true_m", "read_m"]

_SAME_CLIPS = (
    "The held-out table belongs to these clips: the error of repeating the first frame, computed again from "
    "artifacts/latents, is the one recorded (relative difference)."
)
_HELD_OUT = "The world model is judged on clips of video_only episodes that it was not trained on."
_FINITE = "Errors, correlations and decibels of the imagined clips are finite numbers."
_BEATS_FIRST_FRAME = (
    "Imagination beats repeating the first frame (ratio of mean latent errors on held-out clips, below 1 is better)."
)
_BEATS_SKILL_MEAN = (
    "Imagination beats the mean training video of the skill (ratio of mean latent errors on held-out clips, below 1 "
    "is better)."
)
_BEATS_RIDGE = (
    "Imagination beats a ridge regression from the first frame's latents (ratio of mean latent errors on held-out "
    "clips, below 1 is better)."
)
_OF_THIS_SCENE = (
    "Imagination shows this scene: with another clip's first frame, the correlation with what happened is lower "
    "(difference of mean correlations)."
)


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Check artifacts/world_model and metrics/judge. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "world_model"
    cache = open_latents(artifacts / "latents")
    judged = artifacts.parent / METRICS / "judge/tables"
    clips = read_parquet(judged / "heldout.parquet", _COLUMNS).to_pandas()
    chains = read_parquet(judged / "chains.parquet", _CHAIN_COLUMNS).to_pandas()
    positions = read_parquet(judged / "positions.parquet", _POSITION_COLUMNS).to_pylist()
    weights = weight_rows(root, ["transformer/*.safetensors", "transformer_raw/*.safetensors"])
    provenance = [
        ("latents", read_json(root / "config.json").get("latents_sha256"), artifacts / "latents"),
        ("judged", read_json(judged / "judged.json").get("world_model_sha256"), root / "transformer"),
    ]
    clip_checks = [
        at_most("disagreement", 1e-3, _SAME_CLIPS, remedy=_REBUILD),
        is_true("heldout", _HELD_OUT, remedy=_REBUILD),
        is_true("finite", _FINITE, remedy=f"training diverged, or a latent is not finite: {_REBUILD}"),
    ]
    ids = ("episode_index", "skill_index", "task", "prompt")
    return [
        Table("clips", _with_recomputed_errors(clips, cache), ids, clip_checks),
        *_chain_tables(chains, clips, positions),
        Table("comparison", _comparison(clips), ("clips",), _comparison_checks(params.gates.world_model)),
        weights_table(weights, _REBUILD),
        provenance_table(
            [{"part": part, "recorded": str(recorded), "found": sha256(path)} for part, recorded, path in provenance],
            _REBUILD,
        ),
    ]


def _comparison_checks(limits: GateWorldModel) -> list[Check]:
    more_than_linear = f"from so few clips a linear prediction is still better than imagination: {_TRAIN}"
    ignores_frame = f"the model ignores its conditioning frame: {_TRAIN}"
    return [
        at_most("over_first_frame", limits.over_first_frame, _BEATS_FIRST_FRAME, remedy=_TRAIN),
        at_most("over_skill_mean", limits.over_skill_mean, _BEATS_SKILL_MEAN, remedy=_TRAIN),
        at_most("over_ridge", 1.0, _BEATS_RIDGE, remedy=more_than_linear, severity="warning"),
        at_least("correlation_gain", limits.correlation_gain, _OF_THIS_SCENE, remedy=ignores_frame),
    ]


def _chain_tables(chains: pd.DataFrame, clips: pd.DataFrame, positions: list[dict[str, Any]]) -> list[Table]:
    """Those that have rows: chains need an episode all of whose skills are usable, positions recorded ones."""
    heldout = set(zip(clips["episode_index"], clips["skill_index"], strict=True))
    tables = []
    if len(chains):
        known = chains["method"] != "recorded"
        rows = chains.assign(
            finite=np.where(known, np.isfinite(chains["error"]), np.isnan(chains["error"]))
            & ~np.isinf(chains["jump_latents"]),
            heldout=[pair in heldout for pair in zip(chains["episode_index"], chains["skill_index"], strict=True)],
        )
        tables.append(_measured("chains", rows, ("episode_index", "skill_index", "task", "method")))
    if positions:
        rows = pd.DataFrame(
            {key: row[key] for key in _POSITION_COLUMNS[:-2]}
            | {
                "finite": is_finite(np.array(row["true_m"] + row["read_m"], np.float64)),
                "heldout": (row["episode_index"], row["skill_index"]) in heldout,
            }
            for row in positions
        )
        tables.append(_measured("positions", rows, ("episode_index", "skill_index", "task", "method", "when")))
    return tables


def _measured(name: str, rows: pd.DataFrame, ids: tuple[str, ...]) -> Table:
    kind = {"chains": "chain of skills", "positions": "object position"}[name]
    checks = [
        is_true("finite", f"Every measurement of a {kind} is a finite number.", remedy=_REBUILD),
        is_true("heldout", f"Every measured {kind} is of a held-out clip.", remedy=_REBUILD),
    ]
    return Table(name, rows, ids, checks)


def _with_recomputed_errors(clips: pd.DataFrame, cache: LatentCache) -> pd.DataFrame:
    found = {(clip.episode_index, clip.skill_index): clip for clip in cache.clips if clip.dataset == "video_only"}
    rows: list[dict[str, Any]] = []
    for row in clips.to_dict("records"):
        clip = found.get((row["episode_index"], row["skill_index"]))
        error = np.inf
        if clip is not None:
            latents = cache.latents(clip).astype(np.float64)
            error = float(np.square(latents[1:] - latents[0]).mean())
        rows.append(
            {
                "disagreement": min(abs(error - row["error_first_frame"]) / max(row["error_first_frame"], 1e-9), 1e9),
                "heldout": clip is not None and clip.subset == "heldout",
                "finite": is_finite(np.array([row[name] for name in _ERRORS + _ALWAYS], np.float64))
                and not any(np.isinf(row[name]) for name in _SOMETIMES),
            }
        )
    return clips[["episode_index", "skill_index", "task", "prompt"]].join(pd.DataFrame(rows))


def _comparison(clips: pd.DataFrame) -> pd.DataFrame:
    paired = clips.dropna(subset=["correlation_shuffled"])
    return pd.DataFrame(
        [
            {
                "clips": len(clips),
                "over_first_frame": clips["error_model"].mean(skipna=False) / clips["error_first_frame"].mean(),
                "over_skill_mean": clips["error_model"].mean(skipna=False) / clips["error_skill_mean"].mean(),
                "over_ridge": clips["error_model"].mean(skipna=False) / clips["error_ridge"].mean(),
                "correlation_gain": (paired["correlation"] - paired["correlation_shuffled"]).mean(skipna=False),
            }
        ]
    )
