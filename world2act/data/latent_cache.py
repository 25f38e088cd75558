"""The latent cache, artifacts/latents: every skill clip's latents and every prompt's embedding, memory-mapped.

In and out: `latents.npy`, `clips.parquet`, `prompt_embeds.npy`, `prompts.json`, `meta.json` (docs/artifacts.md).
Plain numpy: whoever reads latents needs no model library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from world2act.errors import BadInput
from world2act.storage import create_array, read_array, read_json, read_parquet, write_json, write_parquet

SKILLS_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("episode_index", pa.int64()),
        ("subset", pa.string()),
        ("task", pa.string()),
        ("instruction", pa.string()),
        ("skill_index", pa.int64()),
        ("skill_count", pa.int64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("raw_end", pa.int64()),
        ("prompt", pa.string()),
        ("provider", pa.string()),
    ]
)
CLIP_SCHEMA = pa.schema(
    [
        *SKILLS_SCHEMA,
        ("offset", pa.int64()),
        ("latents", pa.int64()),
        ("prompt_row", pa.int64()),
    ]
)
_AGAIN = "run the latents stage again: `dvc repro latents`"


@dataclass(frozen=True)
class Clip:
    """One skill clip: a row of clips.parquet. `start` and `end` are frames of the episode, both inclusive."""

    dataset: str
    episode_index: int
    subset: str
    task: str
    instruction: str
    skill_index: int
    skill_count: int
    start: int
    end: int
    raw_end: int
    prompt: str
    provider: str
    offset: int
    latents: int
    prompt_row: int


@dataclass(frozen=True)
class LatentCache:
    """An opened cache.

    Attributes:
        clips: in the order of skills.parquet.
        prompts: the P prompts; the last one is empty, for the unconditional branch.
        prompt_embeds: float32 (P, L, D).
        meta: sha256 of the VAE and of the text encoder that made the cache, and shapes.
    """

    clips: tuple[Clip, ...]
    prompts: tuple[str, ...]
    prompt_embeds: np.ndarray
    meta: dict[str, Any]
    _latents: np.ndarray

    def latents(self, clip: Clip) -> np.ndarray:
        """The clip's latents, float32 (T, C, h, w), the conditioning frame's first; a read-only view."""
        return self._latents[clip.offset : clip.offset + clip.latents]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self._latents.shape[1:]

    def select(self, dataset: str, subset: str) -> list[Clip]:
        """The clips of one dataset ("labelled" | "video_only") and subset ("train" | "heldout").

        Raises:
            BadInput: there is none.
        """
        chosen = [clip for clip in self.clips if (clip.dataset, clip.subset) == (dataset, subset)]
        if not chosen:
            raise BadInput(
                "artifacts/latents/clips.parquet",
                "dataset, subset",
                "no clip",
                f"clips of {dataset}/{subset}",
                "collect more episodes (demos.*_per_task), or lower skills discards",
            )
        return chosen

    @property
    def no_prompt(self) -> int:
        """The row of the empty prompt."""
        return len(self.prompts) - 1


def open_latents(directory: str | Path) -> LatentCache:
    """Open a cache.

    Raises:
        BadInput: a file is missing or damaged, or the files do not belong together.
    """
    root = Path(directory)
    table = read_parquet(root / "clips.parquet", CLIP_SCHEMA.names)
    latents, embeds = read_array(root / "latents.npy"), read_array(root / "prompt_embeds.npy")
    prompts = tuple(read_json(root / "prompts.json"))
    if latents.ndim != 4 or latents.dtype != np.float32:
        raise BadInput(root / "latents.npy", "", f"{latents.dtype} {latents.shape}", "float32 (N, C, h, w)", _AGAIN)
    if embeds.ndim != 3 or len(embeds) != len(prompts) or not prompts or prompts[-1] != "":
        raise BadInput(
            root / "prompts.json",
            "",
            f"{len(prompts)} prompts, embeddings {embeds.shape}",
            "one embedding a prompt, the last prompt empty",
            _AGAIN,
        )
    clips, offset = tuple(Clip(**row) for row in table.to_pylist()), 0
    for row, clip in enumerate(clips):
        if (
            clip.offset != offset
            or (clip.end - clip.start) != 4 * (clip.latents - 1)
            or prompts[clip.prompt_row] != clip.prompt
        ):
            raise BadInput(
                root / "clips.parquet", f"row {row}", clip, f"offset {offset}, 1 + (end - start) / 4 latents", _AGAIN
            )
        offset += clip.latents
    if offset != len(latents):
        raise BadInput(root / "latents.npy", "", f"{len(latents)} latents", f"{offset}, as clips.parquet says", _AGAIN)
    return LatentCache(clips, prompts, embeds, read_json(root / "meta.json"), latents)


def write_latents(
    directory: Path,
    skills: Sequence[dict[str, Any]],
    latents: Iterable[tuple[int, np.ndarray]],
    latent_shape: tuple[int, int, int],
    prompts: Sequence[str],
    prompt_embeds: np.ndarray,
    meta: dict[str, Any],
) -> None:
    """Write a cache into an existing directory, clip by clip as they come.

    Args:
        skills: the rows of skills.parquet.
        latents: (row, float32 (1 + (end - start) / 4, C, h, w)) for each row, in any order.
        latent_shape: (C, h, w).
        prompts: the P prompts, the last one empty; `prompt_embeds` is float32 (P, L, D).
    """
    lengths = [1 + (row["end"] - row["start"]) // 4 for row in skills]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    rows = {prompt: row for row, prompt in enumerate(prompts)}
    shape = (offsets[-1], *latent_shape)
    array = create_array(directory / "latents.npy", shape)
    for row, clip in latents:
        array[offsets[row] : offsets[row + 1]] = clip
    array.flush()
    clips = [
        row | {"offset": offset, "latents": length, "prompt_row": rows[row["prompt"]]}
        for row, offset, length in zip(skills, offsets, lengths, strict=False)
    ]
    write_parquet(directory / "clips.parquet", clips, CLIP_SCHEMA)
    np.save(directory / "prompt_embeds.npy", prompt_embeds.astype(np.float32), allow_pickle=False)
    write_json(directory / "prompts.json", list(prompts))
    write_json(directory / "meta.json", meta)
