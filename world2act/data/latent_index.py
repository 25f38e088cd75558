"""Writing the index of a latent cache, and finding what an older cache already has.

An array's key is the hash of everything that it was made from, so a cache with more clips has the same files and some
more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from world2act.core.errors import BadInput
from world2act.core.latent_time import latents_of
from world2act.core.storage import read_parquet, write_json
from world2act.core.tables import write_rows
from world2act.data.array_store import ArrayStore
from world2act.data.latent_cache import CacheMeta, Clip, Prompt, open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import layout_of


def reusable(directory: Path, kind: str, keys: Container[str], *, verify: bool) -> set[str]:
    """Those of `keys` whose arrays are in an older cache, which may be damaged, have another layout, or not exist.

    Args:
        kind: "clips" or "prompts".
        verify: read every file; report and leave out those that differ from the hash in the index.
    """
    index, store = directory / f"{kind}.parquet", ArrayStore(directory / kind)
    if not index.exists():
        return set()
    try:
        rows = read_parquet(index, ["key", "sha256"]).to_pylist()
    except BadInput as error:
        print(f"ignoring {index}: {error}", flush=True)
        return set()
    recorded = {row["key"]: row["sha256"] for row in rows if row["key"] in keys}
    undamaged = {
        key
        for key, digest in recorded.items()
        if store.path(key).exists() and (not verify or store.digest(key) == digest)
    }
    if verify and len(undamaged) < len(recorded):
        damaged = sorted(store.path(key).name for key in recorded.keys() - undamaged)
        print(f"{directory / kind}: {len(damaged)} damaged or missing, made again: {', '.join(damaged)}", flush=True)
    return undamaged


def clip_keys(
    datasets: Mapping[str, EpisodeDataset], skills: Iterable[Mapping[str, Any]], encoding: Mapping[str, Any]
) -> list[str]:
    """The key of each row of skills.parquet: a hash of the encoding, the cameras' layout and the frames of the clip.

    Frames are hashed as the stored PNGs, which saves decoding them; at worst, an image that was compressed in another
    way is encoded again.
    """
    made_by = {
        name: {"encoding": dict(encoding), "views": layout_of(dataset).to_json()} for name, dataset in datasets.items()
    }
    keys: list[str] = []
    pngs: list[list[bytes]] = []
    episode: tuple[str, int] | None = None
    for skill in skills:
        dataset = datasets[skill["dataset"]]
        if (skill["dataset"], skill["episode_index"]) != episode:
            episode = (skill["dataset"], skill["episode_index"])
            pngs = [dataset.pngs(skill["episode_index"], camera) for camera in dataset.cameras]
        frames = (png for camera in pngs for png in camera[skill["start"] : skill["end"] + 1])
        keys.append(content_key(made_by[skill["dataset"]], frames))
    return keys


def content_key(made_by: Mapping[str, Any], content: Iterable[bytes]) -> str:
    """The key of an array: a hash of how it was made, as JSON, and of the parts of its input."""
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
    meta: CacheMeta,
) -> None:
    """Write the index of a cache whose arrays have been written.

    Args:
        skills: the rows of skills.parquet.
        keys: the key of each row's clip.
        prompts: prompt → key, in order, with the empty prompt last.
        meta: see `LatentCache`.

    Raises:
        BadInput: an array is missing, or its shape does not match its row.
    """
    clips, texts = ArrayStore(directory / "clips"), ArrayStore(directory / "prompts")
    rows, digests = list(prompts), {key: clips.digest(key) for key in sorted(set(keys))}
    indexed = [
        Clip(
            **skill,
            key=key,
            sha256=digests[key],
            latents=latents_of(skill["end"] - skill["start"] + 1),
            prompt_row=rows.index(skill["prompt"]),
        )
        for skill, key in zip(skills, keys, strict=True)
    ]
    stored = [Prompt(prompt, key, texts.digest(key), texts.shape(key)[0]) for prompt, key in prompts.items()]
    write_rows(directory / "clips.parquet", Clip, indexed)
    write_rows(directory / "prompts.parquet", Prompt, stored)
    write_json(directory / "meta.json", meta)
    open_latents(directory)
