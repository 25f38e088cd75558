"""The gate of artifacts/latents: measures the latent cache.

It reads and hashes every file, and computes every key again from the frames; `open_latents` checks only what is cheap
to check.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.params import Params
from world2act.core.params.gates import GateLatents
from world2act.core.storage import sha256
from world2act.core.tables import read_rows
from world2act.data.latent_cache import LatentCache, open_latents
from world2act.data.latent_index import clip_keys
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.gates.engine.channels import Channel, measure_channels
from world2act.gates.engine.measurements import is_finite
from world2act.gates.engine.tables import Provenance, Table, provenance_table
from world2act.gates.engine.vocabulary import Check, at_least, between, is_true, rebuild

_REBUILD = rebuild("latents")
_UPDATE = "run `dvc repro --force latents`: what is damaged or outdated is encoded again, the rest is kept"
_TOKENIZER = "run `dvc repro tokenizer`"

_CENTRED = "Latents are normalised: each channel's mean over the training clips is near 0."
_SCALED = (
    "Latents are normalised, and no channel is dead: each channel's standard deviation over training clips is near 1."
)
_INTACT = "Every file is the one that was written: its sha256 is the one in the index."
_CURRENT = (
    "Latents belong to the frames that are now in artifacts/demos: every key is the hash of its clip's frames, the "
    "layout of the cameras and the encoding."
)
_MOVE = (
    "Latents follow the video: they change from the conditioning frame to the end of the clip (mean absolute "
    "difference)."
)
_VARY = "The conditioning latent shows something: it varies over its positions (standard deviation)."
_CACHED = "Every clip of skills.parquet is in the cache, with the same frames and prompt."
_DISTINCT = "Prompts can be told apart: no two have the same embedding (distance to the nearest other one)."


@dataclass(frozen=True)
class _Clip:
    dataset: str
    episode_index: int
    skill_index: int
    task: str
    finite: bool
    intact: bool
    current: bool
    motion: float
    spread: float


@dataclass(frozen=True)
class _Skill:
    dataset: str
    episode_index: int
    skill_index: int
    cached: bool


@dataclass(frozen=True)
class _Prompt:
    row: int
    prompt: str
    finite: bool
    intact: bool
    nearest: float


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/latents. Raises `BadInput` when a file is missing or truncated, or the index is wrong."""
    cache = open_latents(artifacts / "latents")
    clip_ids = ("dataset", "episode_index", "skill_index", "task")
    skill_ids = ("dataset", "episode_index", "skill_index")
    skill_checks = [is_true("cached", _CACHED, remedy=_REBUILD)]
    return [
        Table.of("channels", Channel, measure_channels(cache), ("channel",), _channel_checks(params.gates.latents)),
        Table.of("clips", _Clip, _clip_rows(artifacts, cache), clip_ids, _clip_checks()),
        Table.of("skills", _Skill, _skill_rows(artifacts, cache), skill_ids, skill_checks),
        Table.of("prompts", _Prompt, _prompt_rows(cache), ("row", "prompt"), _prompt_checks()),
        provenance_table(_provenance_rows(artifacts, cache), _REBUILD),
    ]


def _channel_checks(limits: GateLatents) -> list[Check]:
    low, high = limits.std
    wrong_mean = f"latents_mean in the VAE's config was not measured on these frames: {_TOKENIZER}"
    wrong_std = (
        f"latents_std in the VAE's config was not measured on these frames, or the channel is unused: {_TOKENIZER}"
    )
    return [
        between("mean", -limits.mean, limits.mean, _CENTRED, remedy=wrong_mean),
        between("std", low, high, _SCALED, remedy=wrong_std),
    ]


def _clip_checks() -> list[Check]:
    return [
        is_true("finite", "Every latent is finite.", remedy=_REBUILD),
        is_true("intact", _INTACT, remedy=_UPDATE),
        is_true("current", _CURRENT, remedy=_UPDATE),
        at_least("motion", 0.01, _MOVE, remedy=_REBUILD),
        at_least("spread", 0.1, _VARY, remedy=_REBUILD),
    ]


def _prompt_checks() -> list[Check]:
    same = f"the text encoder gives every prompt the same embedding: {_TOKENIZER}"
    return [
        is_true("finite", "Every prompt embedding is finite.", remedy=_REBUILD),
        is_true("intact", _INTACT, remedy=_UPDATE),
        at_least("nearest", 1e-4, _DISTINCT, remedy=same),
    ]


def _clip_rows(artifacts: Path, cache: LatentCache) -> list[_Clip]:
    rows, current = [], _current_keys(artifacts, cache)
    for clip, key in zip(cache.clips, current, strict=True):
        latents = cache.latents(clip)
        rows.append(
            _Clip(
                dataset=clip.dataset,
                episode_index=clip.episode_index,
                skill_index=clip.skill_index,
                task=clip.task,
                finite=is_finite(latents),
                intact=cache.clip_store.digest(clip.key) == clip.sha256,
                current=clip.key == key,
                motion=float(np.abs(latents[1:] - latents[0]).mean((1, 2, 3)).max()),
                spread=float(latents[0].std((1, 2)).max()),
            )
        )
    return rows


def _current_keys(artifacts: Path, cache: LatentCache) -> list[str | None]:
    """The key that each clip would get now; None if its frames no longer exist."""
    names = sorted({clip.dataset for clip in cache.clips})
    datasets = {name: EpisodeDataset.open(artifacts / "demos" / name) for name in names}
    recorded = [
        clip.episode_index < len(datasets[clip.dataset])
        and clip.end < datasets[clip.dataset].lengths[clip.episode_index]
        for clip in cache.clips
    ]
    rows = [vars(clip) for clip, is_recorded in zip(cache.clips, recorded, strict=True) if is_recorded]
    keys = iter(clip_keys(datasets, rows, cache.meta["encoding"]))
    return [next(keys) if is_recorded else None for is_recorded in recorded]


def _skill_rows(artifacts: Path, cache: LatentCache) -> list[_Skill]:
    cached = set(map(_identity, cache.clips))
    return [
        _Skill(skill.dataset, skill.episode_index, skill.skill_index, _identity(skill) in cached)
        for skill in read_rows(artifacts / "skills/skills.parquet", SkillRow)
    ]


def _identity(skill: SkillRow) -> tuple[str, int, int, int, int, str]:
    """The fields that must be the same in the cache."""
    return skill.dataset, skill.episode_index, skill.skill_index, skill.start, skill.end, skill.prompt


def _prompt_rows(cache: LatentCache) -> list[_Prompt]:
    embeds = cache.prompt_embeds.reshape(len(cache.prompts), -1).astype(np.float64)
    distances = np.linalg.norm(embeds[:, None] - embeds[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return [
        _Prompt(
            row=i,
            prompt=stored.prompt,
            finite=is_finite(embeds[i]),
            intact=cache.prompt_store.digest(stored.key) == stored.sha256,
            nearest=float(distances[i].min()),
        )
        for i, stored in enumerate(cache.stored_prompts)
    ]


def _provenance_rows(artifacts: Path, cache: LatentCache) -> list[Provenance]:
    made_by = {"vae": cache.meta["encoding"], "text_encoder": cache.meta["text"]}
    return [
        Provenance(part, str(description.get(f"{part}_sha256")), sha256(artifacts / "tokenizer" / part))
        for part, description in made_by.items()
    ]
