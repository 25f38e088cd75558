"""Reading the latent cache, artifacts/latents: the latents of every skill clip and the embedding of every prompt.

It consists of two array stores, `clips/` and `prompts/` (`world2act.data.array_store`), their indices `clips.parquet`
and `prompts.parquet`, and `meta.json` (docs/artifacts.md). Arrays are memory-mapped numpy: no model library is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.latent_time import frames_of
from world2act.core.storage import read_json
from world2act.core.tables import read_rows
from world2act.data.array_store import ArrayStore
from world2act.data.skill_table import SkillRow
from world2act.data.tiling import Layout, LayoutJson

_REMEDY = "run the latents stage again: `dvc repro latents`"


@dataclass(frozen=True)
class Clip(SkillRow):
    """One skill clip: a row of clips.parquet.

    `key` is the hash of what the latents were made from, `sha256` that of the file that holds them.
    """

    key: str
    sha256: str
    latents: int
    prompt_row: int


@dataclass(frozen=True)
class Prompt:
    """One prompt: a row of prompts.parquet. `tokens`: their number; the rest of the embedding is zero."""

    prompt: str
    key: str
    sha256: str
    tokens: int


class CacheMeta(TypedDict):
    """meta.json of a cache. `encoding` and `text` are what the keys of clips and prompts are hashes of.

    Shapes: of one latent, (C, h, w), and of a prompt's embedding, (L, D).
    """

    latent_shape: list[int]
    text_shape: list[int]
    views: LayoutJson
    encoding: dict[str, object]
    text: dict[str, object]


@dataclass(frozen=True)
class LatentCache:
    """An opened cache.

    Attributes:
        clips: in the order of skills.parquet.
        prompts: the P prompts; the last one is empty and serves the unconditional branch.
        prompt_embeds: float32 (P, L, D), zero after a prompt's tokens.
        meta: how the cache was made.
        stored_prompts: the rows of prompts.parquet, in the order of `prompts`.
        clip_store, prompt_store: the arrays.
    """

    clips: tuple[Clip, ...]
    prompts: tuple[str, ...]
    prompt_embeds: np.ndarray
    meta: CacheMeta
    stored_prompts: tuple[Prompt, ...]
    clip_store: ArrayStore
    prompt_store: ArrayStore

    def latents(self, clip: Clip) -> np.ndarray:
        """The clip's latents, float32 (T, C, h, w), beginning with the conditioning frame's: a read-only view.

        Raises:
            BadInput: the file is missing or damaged.
        """
        return self.clip_store.get(clip.key, (clip.latents, *self.latent_shape))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        channels, height, width = self.meta["latent_shape"]
        return channels, height, width

    @property
    def views(self) -> Layout:
        """The layout of the cameras' views in the frames that were encoded."""
        return Layout.from_json(self.meta["views"])

    def select(self, dataset: str, subset: str) -> list[Clip]:
        """The clips of one dataset ("labelled" | "video_only") and subset ("train" | "heldout").

        Raises:
            BadInput: there are none.
        """
        chosen = [clip for clip in self.clips if (clip.dataset, clip.subset) == (dataset, subset)]
        if not chosen:
            raise BadInput(
                "artifacts/latents/clips.parquet",
                "dataset, subset",
                "no clip",
                f"clips of {dataset}/{subset}",
                "collect more episodes (demos.*_per_task), or have fewer of them discarded (skills stage)",
            )
        return chosen

    @property
    def no_prompt(self) -> int:
        """The row of the empty prompt."""
        return len(self.prompts) - 1


def open_latents(directory: str | Path) -> LatentCache:
    """Open a cache. Only what is cheap to check is checked: that the indices are consistent, and every file's length.

    Raises:
        BadInput: a file is missing or damaged, or the files do not belong together.
    """
    root = Path(directory)
    clips = tuple(read_rows(root / "clips.parquet", Clip))
    stored = tuple(read_rows(root / "prompts.parquet", Prompt))
    meta: CacheMeta = read_json(root / "meta.json")
    prompts = tuple(row.prompt for row in stored)
    missing = CacheMeta.__required_keys__ - meta.keys()
    if missing:
        raise BadInput(
            root / "meta.json",
            ", ".join(sorted(missing)),
            "no such key",
            "a description of how the cache was made",
            _REMEDY,
        )
    if not prompts or prompts[-1] != "":
        raise BadInput(root / "prompts.parquet", "prompt", list(prompts), "an empty last prompt", _REMEDY)
    cache = LatentCache(
        clips,
        prompts,
        np.zeros((len(prompts), *meta["text_shape"]), np.float32),
        meta,
        stored,
        ArrayStore(root / "clips"),
        ArrayStore(root / "prompts"),
    )
    for i, clip in enumerate(clips):
        fits = 0 <= clip.prompt_row < len(prompts) and prompts[clip.prompt_row] == clip.prompt
        if not fits or clip.end - clip.start + 1 != frames_of(clip.latents):
            expected = f"its prompt in row prompt_row of prompts.parquet, and {frames_of(clip.latents)} frames"
            raise BadInput(root / "clips.parquet", f"row {i}", clip, expected, _REMEDY)
        cache.clip_store.check_size(clip.key, (clip.latents, *cache.latent_shape))
    length, dim = meta["text_shape"]
    for embed, prompt in zip(cache.prompt_embeds, stored, strict=True):
        if prompt.tokens > length:
            raise BadInput(root / "prompts.parquet", "tokens", prompt, f"at most {length}", _REMEDY)
        embed[: prompt.tokens] = cache.prompt_store.get(prompt.key, (prompt.tokens, dim))
    cache.prompt_embeds.setflags(write=False)
    return cache
