"""The latent cache, artifacts/latents: every skill clip's latents and every prompt's embedding, memory-mapped.

In and out: `clips/` and `prompts/` (`world2act.data.array_store`), their indices `clips.parquet` and `prompts.parquet`,
`meta.json` (docs/artifacts.md). An array's key is the hash of all that it was made from, so that a cache of more clips
holds the same files and some more. Plain numpy: whoever reads latents needs no model library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, read_parquet, write_json, write_parquet
from world2act.data.array_store import ArrayStore
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import Layout, layout_of

FRAMES_PER_LATENT = 4
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
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("latents", pa.int64()),
        ("prompt_row", pa.int64()),
    ]
)
PROMPT_SCHEMA = pa.schema(
    [("prompt", pa.string()), ("key", pa.string()), ("sha256", pa.string()), ("tokens", pa.int64())]
)
_AGAIN = "run the latents stage again: `dvc repro latents`"


def latents_of(frames: int) -> int:
    """How many latents a clip of so many frames has. Raises `BadInput` where they are not 4k + 1."""
    if frames < 1 or (frames - 1) % FRAMES_PER_LATENT:
        raise BadInput("a clip", "frames", frames, "4k + 1", "cut clips on the grid of 4 (skills stage)")
    return 1 + (frames - 1) // FRAMES_PER_LATENT


@dataclass(frozen=True)
class Clip:
    """One skill clip: a row of clips.parquet. `start` and `end` are frames of the episode, both inclusive. `key` is the
    hash of what its latents were made from, `sha256` that of the file that holds them."""

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
    key: str
    sha256: str
    latents: int
    prompt_row: int


@dataclass(frozen=True)
class Prompt:
    """One prompt: a row of prompts.parquet. `tokens`: how many there are; the rest of its embedding is zero."""

    prompt: str
    key: str
    sha256: str
    tokens: int


@dataclass(frozen=True)
class LatentCache:
    """An opened cache.

    Attributes:
        clips: in the order of skills.parquet.
        prompts: the P prompts; the last one is empty, for the unconditional branch.
        prompt_embeds: float32 (P, L, D), zero behind a prompt's tokens.
        meta: how the cache was made: `encoding` and `text` (what the keys are of), shapes, and the cameras' layout.
        stored_prompts: the rows of prompts.parquet, in the order of `prompts`.
        clip_store, prompt_store: the arrays themselves.
    """

    clips: tuple[Clip, ...]
    prompts: tuple[str, ...]
    prompt_embeds: np.ndarray
    meta: dict[str, Any]
    stored_prompts: tuple[Prompt, ...]
    clip_store: ArrayStore
    prompt_store: ArrayStore

    def latents(self, clip: Clip) -> np.ndarray:
        """The clip's latents, float32 (T, C, h, w), the conditioning frame's first; a read-only view of its file.

        Raises:
            BadInput: the file is missing or damaged.
        """
        return self.clip_store.get(clip.key, (clip.latents, *self.latent_shape))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return tuple(self.meta["latent_shape"])

    @property
    def views(self) -> Layout:
        """How the cameras' pictures lie in the frames that were encoded."""
        return Layout.from_json(self.meta["views"])

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
    """Open a cache, and check what is cheap to check: that the indices hold together, and every file's length.

    Raises:
        BadInput: a file is missing or damaged, or the files do not belong together.
    """
    root = Path(directory)
    clips = tuple(Clip(**row) for row in read_parquet(root / "clips.parquet", CLIP_SCHEMA.names).to_pylist())
    stored = tuple(Prompt(**row) for row in read_parquet(root / "prompts.parquet", PROMPT_SCHEMA.names).to_pylist())
    meta, prompts = read_json(root / "meta.json"), tuple(row.prompt for row in stored)
    missing = {"latent_shape", "text_shape", "views", "encoding", "text"} - meta.keys()
    if missing:
        raise BadInput(root / "meta.json", ", ".join(sorted(missing)), "no such key", "how the cache was made", _AGAIN)
    if not prompts or prompts[-1] != "":
        raise BadInput(root / "prompts.parquet", "prompt", list(prompts), "the last prompt empty", _AGAIN)
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
        if not fits or clip.end - clip.start != FRAMES_PER_LATENT * (clip.latents - 1):
            expected = "its prompt in its row, and 1 + (end - start) / 4 latents"
            raise BadInput(root / "clips.parquet", f"row {i}", clip, expected, _AGAIN)
        cache.clip_store.check_size(clip.key, (clip.latents, *cache.latent_shape))
    length, dim = meta["text_shape"]
    for embed, prompt in zip(cache.prompt_embeds, stored, strict=True):
        if prompt.tokens > length:
            raise BadInput(root / "prompts.parquet", "tokens", prompt, f"at most {length}", _AGAIN)
        embed[: prompt.tokens] = cache.prompt_store.get(prompt.key, (prompt.tokens, dim))
    cache.prompt_embeds.setflags(write=False)
    return cache


def reusable(directory: Path, kind: str, keys: Container[str], *, verify: bool) -> set[str]:
    """Those of `keys` whose arrays an older cache holds, which may be damaged, of another layout, or not there at all.

    Args:
        kind: "clips" or "prompts".
        verify: read every file, leave out what is not the very file that the index names, and say so.
    """
    index, store = directory / f"{kind}.parquet", ArrayStore(directory / kind)
    if not index.exists():
        return set()
    try:
        rows = read_parquet(index, ["key", "sha256"]).to_pylist()
    except BadInput as error:
        print(f"{index} is not used: {error}", flush=True)
        return set()
    wanted = {row["key"]: row["sha256"] for row in rows if row["key"] in keys}
    whole = {
        key
        for key, digest in wanted.items()
        if store.path(key).exists() and (not verify or store.digest(key) == digest)
    }
    if verify and len(whole) < len(wanted):
        damaged = sorted(store.path(key).name for key in wanted.keys() - whole)
        print(f"{directory / kind}: {len(damaged)} damaged or missing, made anew: {', '.join(damaged)}", flush=True)
    return whole


def clip_keys(
    datasets: Mapping[str, EpisodeDataset], skills: Iterable[Mapping[str, Any]], encoding: Mapping[str, Any]
) -> list[str]:
    """The key of each row of skills.parquet: of the encoding, the cameras' layout and every frame of the clip.

    Frames enter as the PNGs that are stored, which need not be decoded: another compression of the same picture is, at
    worst, encoded again.
    """
    made_by = {
        name: {"encoding": dict(encoding), "views": layout_of(dataset).to_json()} for name, dataset in datasets.items()
    }
    keys, episode, pngs = [], None, []
    for skill in skills:
        dataset = datasets[skill["dataset"]]
        if (skill["dataset"], skill["episode_index"]) != episode:
            episode = (skill["dataset"], skill["episode_index"])
            pngs = [dataset.pngs(skill["episode_index"], camera) for camera in dataset.cameras]
        frames = (png for each in pngs for png in each[skill["start"] : skill["end"] + 1])
        keys.append(content_key(made_by[skill["dataset"]], frames))
    return keys


def content_key(made_by: Mapping[str, Any], content: Iterable[bytes]) -> str:
    """The key of an array: of what made it, as JSON, and of what it was made from, part by part."""
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    for part in content:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def write_index(
    directory: Path,
    skills: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    prompts: Mapping[str, str],
    meta: Mapping[str, Any],
) -> None:
    """Write the index of a directory whose arrays are there.

    Args:
        skills: the rows of skills.parquet, and `keys`, of the clip of each.
        prompts: prompt → key, in order, the empty one last.
        meta: see `LatentCache`.

    Raises:
        BadInput: an array is missing, or not of the shape that belongs to its row.
    """
    clips, texts = ArrayStore(directory / "clips"), ArrayStore(directory / "prompts")
    rows, digests = list(prompts), {key: clips.digest(key) for key in sorted(set(keys))}
    indexed = [
        {
            **skill,
            "key": key,
            "sha256": digests[key],
            "latents": latents_of(skill["end"] - skill["start"] + 1),
            "prompt_row": rows.index(skill["prompt"]),
        }
        for skill, key in zip(skills, keys, strict=True)
    ]
    stored = [
        {"prompt": prompt, "key": key, "sha256": texts.digest(key), "tokens": texts.shape(key)[0]}
        for prompt, key in prompts.items()
    ]
    write_parquet(directory / "clips.parquet", indexed, CLIP_SCHEMA)
    write_parquet(directory / "prompts.parquet", stored, PROMPT_SCHEMA)
    write_json(directory / "meta.json", dict(meta))
    open_latents(directory)
