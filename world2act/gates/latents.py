"""The gate of artifacts/latents: the latent cache in, tables with expectations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.data.latent_cache import LatentCache, open_latents
from world2act.gates.engine import Table, provenance_table, why
from world2act.gates.probes import is_finite
from world2act.params import Params
from world2act.storage import read_parquet, sha256

_AGAIN = "delete artifacts/latents and run `dvc repro latents`"
_KEY = ["dataset", "episode_index", "skill_index", "start", "end", "prompt"]


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/latents. Raises `BadInput` when a file is missing, damaged, or offsets are not contiguous."""
    limits, cache = params.gates.latents, open_latents(artifacts / "latents")
    low, high = limits.std
    return [
        Table(
            "channels",
            pd.DataFrame(channel_rows(cache)),
            ("channel",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="mean",
                    min_value=-limits.mean,
                    max_value=limits.mean,
                    **why(
                        "Latents are normalised: each channel's mean over the training clips is near 0.",
                        "latents_mean in the VAE's config is not that of these frames: run `dvc repro tokenizer`",
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="std",
                    min_value=low,
                    max_value=high,
                    **why(
                        "Latents are normalised and no channel is dead: each channel's standard deviation over the "
                        "training clips is near 1.",
                        "latents_std in the VAE's config is not that of these frames, or the channel is unused: run "
                        "`dvc repro tokenizer`",
                    ),
                ),
            ],
        ),
        Table(
            "clips",
            pd.DataFrame(_clip_rows(cache)),
            ("dataset", "episode_index", "skill_index", "task"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="finite", value_set=[True], **why("Every latent is finite.", _AGAIN)
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="motion",
                    min_value=0.01,
                    **why(
                        "Latents follow the video: they change from the conditioning frame to the end of the clip "
                        "(mean absolute difference).",
                        _AGAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="spread",
                    min_value=0.1,
                    **why(
                        "The conditioning latent shows something: it varies over its positions (standard deviation).",
                        _AGAIN,
                    ),
                ),
            ],
        ),
        Table(
            "skills",
            pd.DataFrame(_skill_rows(artifacts, cache)),
            ("dataset", "episode_index", "skill_index"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="cached",
                    value_set=[True],
                    **why("Every clip of skills.parquet is in the cache, with the same frames and prompt.", _AGAIN),
                ),
            ],
        ),
        Table(
            "prompts",
            pd.DataFrame(_prompt_rows(cache)),
            ("row", "prompt"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="finite", value_set=[True], **why("Every prompt embedding is finite.", _AGAIN)
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="nearest",
                    min_value=1e-4,
                    **why(
                        "Prompts can be told apart: no two have the same embedding (distance to the nearest other "
                        "one).",
                        "the text encoder gives every prompt the same embedding: run `dvc repro tokenizer`",
                    ),
                ),
            ],
        ),
        provenance_table(_provenance_rows(artifacts, cache), _AGAIN),
    ]


def channel_rows(cache: LatentCache) -> list[dict[str, Any]]:
    """Mean and standard deviation of each channel over the training clips of both datasets."""
    values = np.concatenate([cache.latents(clip) for clip in cache.clips if clip.subset == "train"])
    with np.errstate(invalid="ignore"):  # an infinite latent gives NaN, which is reported as unmeasured
        mean, std = values.mean((0, 2, 3), np.float64), values.std((0, 2, 3), np.float64)
    return [{"channel": i, "mean": float(m), "std": float(s)} for i, (m, s) in enumerate(zip(mean, std, strict=True))]


def _clip_rows(cache: LatentCache) -> list[dict[str, Any]]:
    rows = []
    for clip in cache.clips:
        latents = cache.latents(clip)
        rows.append(
            {
                "dataset": clip.dataset,
                "episode_index": clip.episode_index,
                "skill_index": clip.skill_index,
                "task": clip.task,
                "finite": is_finite(latents),
                "motion": float(np.abs(latents[1:] - latents[0]).mean((1, 2, 3)).max()),
                "spread": float(latents[0].std((1, 2)).max()),
            }
        )
    return rows


def _skill_rows(artifacts: Path, cache: LatentCache) -> list[dict[str, Any]]:
    cached = {tuple(getattr(clip, key) for key in _KEY) for clip in cache.clips}
    skills = read_parquet(artifacts / "skills/skills.parquet", _KEY).to_pylist()
    return [skill | {"cached": tuple(skill[key] for key in _KEY) in cached} for skill in skills]


def _prompt_rows(cache: LatentCache) -> list[dict[str, Any]]:
    embeds = cache.prompt_embeds.reshape(len(cache.prompts), -1).astype(np.float64)
    distances = np.linalg.norm(embeds[:, None] - embeds[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return [
        {"row": i, "prompt": prompt, "finite": is_finite(embeds[i]), "nearest": float(distances[i].min())}
        for i, prompt in enumerate(cache.prompts)
    ]


def _provenance_rows(artifacts: Path, cache: LatentCache) -> list[dict[str, Any]]:
    parts = ("vae", "text_encoder")
    return [
        {
            "part": part,
            "recorded": str(cache.meta.get(f"{part}_sha256")),
            "found": sha256(artifacts / "tokenizer" / part),
        }
        for part in parts
    ]
