"""The gate of artifacts/world_model: weights and held-out imagination in, tables with expectations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.data.latent_cache import LatentCache, open_latents
from world2act.gates.engine import Table, provenance_table, weights_table, why
from world2act.gates.probes import weight_rows
from world2act.params import Params
from world2act.storage import read_json, read_parquet, sha256

_AGAIN = "delete artifacts/world_model and run `dvc repro world_model`"
_TRAIN = "raise world_model.training.steps or demos.video_only_per_task"
_COLUMNS = [
    "episode_index",
    "task",
    "skill_index",
    "prompt",
    "error_model",
    "error_first_frame",
    "error_skill_mean",
    "error_shuffled",
    "correlation",
    "correlation_shuffled",
]


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/world_model. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.world_model, artifacts / "world_model"
    cache = open_latents(artifacts / "latents")
    clips = read_parquet(root / "heldout.parquet", _COLUMNS).to_pandas()
    recorded = str(read_json(root / "config.json").get("latents_sha256"))
    return [
        Table(
            "clips",
            _with_recomputed_errors(clips, cache),
            ("episode_index", "skill_index", "task", "prompt"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="disagreement",
                    max_value=1e-3,
                    **why(
                        "The held-out table belongs to these clips: the error of repeating the first frame, "
                        "computed again from "
                        "artifacts/latents, is the one recorded (relative difference).",
                        _AGAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="heldout",
                    value_set=[True],
                    **why(
                        "The world model is judged on clips of video_only episodes that it was not trained on.", _AGAIN
                    ),
                ),
            ],
        ),
        Table(
            "comparison",
            _comparison(clips),
            ("clips",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="over_first_frame",
                    max_value=limits.over_first_frame,
                    **why(
                        "Imagination beats repeating the first frame (ratio of mean latent errors on held-out clips).",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="over_skill_mean",
                    max_value=limits.over_skill_mean,
                    **why(
                        "Imagination beats the mean training video of the skill (ratio of mean latent errors on "
                        "held-out clips).",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="correlation_gain",
                    min_value=limits.correlation_gain,
                    **why(
                        "Imagination is of this scene: with another clip's first frame the correlation with what "
                        "happened is lower "
                        "(difference of mean correlations).",
                        f"the model ignores its conditioning frame: {_TRAIN}",
                    ),
                ),
            ],
        ),
        weights_table(weight_rows(root, ["transformer/*.safetensors", "transformer_raw/*.safetensors"]), _AGAIN),
        provenance_table([{"part": "latents", "recorded": recorded, "found": sha256(artifacts / "latents")}], _AGAIN),
    ]


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
                "correlation_gain": (paired["correlation"] - paired["correlation_shuffled"]).mean(skipna=False),
            }
        ]
    )
