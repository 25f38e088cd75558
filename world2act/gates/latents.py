"""The gate of artifacts/latents: the latent cache in, tables with expectations out.

Every file is read and hashed here, and every key made again from the frames; `open_latents` checks what is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_parquet, sha256
from world2act.data.latent_cache import LatentCache, clip_keys, open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates.engine import Table, provenance_table, why
from world2act.gates.probes import is_finite

_AGAIN = "delete artifacts/latents and run `dvc repro latents`"
_REMAKE = "run `dvc repro --force latents`: what is damaged or outdated is encoded again, the rest is kept"
_KEY = ["dataset", "episode_index", "skill_index", "start", "end", "prompt"]


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/latents. Raises `BadInput` when a file is missing or cut, or the index wrong."""
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
            pd.DataFrame(_clip_rows(artifacts, cache)),
            ("dataset", "episode_index", "skill_index", "task"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="finite", value_set=[True], **why("Every latent is finite.", _AGAIN)
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="intact",
                    value_set=[True],
                    **why("Every file is the one that was written: its sha256 is that of the index.", _REMAKE),
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="current",
                    value_set=[True],
                    **why(
                        "Latents belong to the frames that are in artifacts/demos now: every key is the hash of its "
                        "clip's frames, of the cameras' layout and of the encoding.",
                        _REMAKE,
                    ),
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
                gxe.ExpectColumnValuesToBeInSet(
                    column="intact",
                    value_set=[True],
                    **why("Every file is the one that was written: its sha256 is that of the index.", _REMAKE),
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


def _clip_rows(artifacts: Path, cache: LatentCache) -> list[dict[str, Any]]:
    rows, current = [], _current_keys(artifacts, cache)
    for clip, key in zip(cache.clips, current, strict=True):
        latents = cache.latents(clip)
        rows.append(
            {
                "dataset": clip.dataset,
                "episode_index": clip.episode_index,
                "skill_index": clip.skill_index,
                "task": clip.task,
                "finite": is_finite(latents),
                "intact": cache.clip_store.digest(clip.key) == clip.sha256,
                "current": clip.key == key,
                "motion": float(np.abs(latents[1:] - latents[0]).mean((1, 2, 3)).max()),
                "spread": float(latents[0].std((1, 2)).max()),
            }
        )
    return rows


def _current_keys(artifacts: Path, cache: LatentCache) -> list[str | None]:
    """The key that each clip would get now; None where its frames are gone."""
    names = sorted({clip.dataset for clip in cache.clips})
    datasets = {name: EpisodeDataset.open(artifacts / "demos" / name) for name in names}
    there = [
        clip.episode_index < len(datasets[clip.dataset])
        and clip.end < datasets[clip.dataset].lengths[clip.episode_index]
        for clip in cache.clips
    ]
    rows = [vars(clip) for clip, is_there in zip(cache.clips, there, strict=True) if is_there]
    keys = iter(clip_keys(datasets, rows, cache.meta["encoding"]))
    return [next(keys) if is_there else None for is_there in there]


def _skill_rows(artifacts: Path, cache: LatentCache) -> list[dict[str, Any]]:
    cached = {tuple(getattr(clip, key) for key in _KEY) for clip in cache.clips}
    skills = read_parquet(artifacts / "skills/skills.parquet", _KEY).to_pylist()
    return [skill | {"cached": tuple(skill[key] for key in _KEY) in cached} for skill in skills]


def _prompt_rows(cache: LatentCache) -> list[dict[str, Any]]:
    embeds = cache.prompt_embeds.reshape(len(cache.prompts), -1).astype(np.float64)
    distances = np.linalg.norm(embeds[:, None] - embeds[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return [
        {
            "row": i,
            "prompt": stored.prompt,
            "finite": is_finite(embeds[i]),
            "intact": cache.prompt_store.digest(stored.key) == stored.sha256,
            "nearest": float(distances[i].min()),
        }
        for i, stored in enumerate(cache.stored_prompts)
    ]


def _provenance_rows(artifacts: Path, cache: LatentCache) -> list[dict[str, Any]]:
    made_by = {"vae": "encoding", "text_encoder": "text"}
    return [
        {
            "part": part,
            "recorded": str(cache.meta[kind].get(f"{part}_sha256")),
            "found": sha256(artifacts / "tokenizer" / part),
        }
        for part, kind in made_by.items()
    ]
