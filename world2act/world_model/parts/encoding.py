"""Skill clips and prompts through the frozen models, each once for its content: what the latents stage does.

In: clips and prompts by key (`world2act.data.latent_cache`). Out: their arrays in an `ArrayStore`. The last bit of a
latent depends on how many clips of which length are encoded together, but not on which they are, nor in which place.
Batches therefore hold clips of one length and are filled up to one size, and a clip has the same bytes in whatever run
it was encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from world2act.core.latent_time import latents_of
from world2act.core.storage import sha256
from world2act.data.array_store import ArrayStore
from world2act.data.latent_index import content_key
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import read_frames
from world2act.world_model.parts.batches import batches
from world2act.world_model.parts.text import TextEncoder
from world2act.world_model.parts.tokenizer import VideoTokenizer

Row = Mapping[str, Any]
"""A row of skills.parquet."""


def describe_encoding(tokenizer: Path, batch_size: int) -> dict[str, Any]:
    """What the bytes of a clip's latents depend on, apart from its frames. `tokenizer` is the artifact's folder."""
    return {
        "vae_sha256": sha256(tokenizer / "vae"),
        "latent": "mode of the posterior",
        "dtype": "float32",
        "batch_size": batch_size,
    }


def describe_text(tokenizer: Path, length: int) -> dict[str, Any]:
    """What a prompt's embedding depends on, apart from the prompt."""
    parts = ("text_encoder", "text_tokenizer")
    return {**{f"{part}_sha256": sha256(tokenizer / part) for part in parts}, "dtype": "float32", "length": length}


def prompt_keys(text: Row, prompts: Iterable[str]) -> dict[str, str]:
    """Prompt → key."""
    return {prompt: content_key(text, [prompt.encode()]) for prompt in prompts}


def length_of(clip: Row) -> int:
    """How many latents a clip has."""
    return latents_of(clip["end"] - clip["start"] + 1)


def batches_of_clips(clips: Mapping[str, Row], batch_size: int) -> list[list[str]]:
    """The keys of clips in batches of one length each, shortest clips first."""
    keys = sorted(clips)
    return [[keys[i] for i in batch] for batch in batches([length_of(clips[key]) for key in keys], batch_size)]


def store_clips(
    store: ArrayStore,
    tokenizer: VideoTokenizer,
    datasets: Mapping[str, EpisodeDataset],
    clips: Mapping[str, Row],
    batch_size: int,
) -> None:
    """Encode clips, each from its own first frame: latent 0 is frame `start` alone.

    Args:
        datasets: name → dataset, for the column `dataset` of `clips`, which are rows of skills.parquet by key.

    Raises:
        BadInput: a frame cannot be read, a clip is not cut on the grid of 4, or a latent is not finite.
    """
    for keys in batches_of_clips(clips, batch_size):
        frames = np.stack([_read(datasets, clips[key]) for key in keys])
        for key, latents in zip(keys, encode(tokenizer, frames, batch_size), strict=True):
            store.put(key, latents)


def encode(tokenizer: VideoTokenizer, clips: np.ndarray, batch_size: int) -> np.ndarray:
    """Encode at most `batch_size` clips, uint8 (N, T, H, W, 3), in a batch of exactly that size, the rest of it blank.

    Returns:
        float32 (N, 1 + (T - 1) / 4, C, h, w).
    """
    batch = np.zeros((batch_size, *clips.shape[1:]), np.uint8)
    batch[: len(clips)] = clips
    return tokenizer.encode(batch).cpu().numpy()[: len(clips)]


def store_prompts(store: ArrayStore, encoder: TextEncoder, keys: Mapping[str, str]) -> None:
    """Embed prompts, one at a time and without their padding, which is zero: float32 (tokens, D)."""
    for prompt, key in keys.items():
        embed = encoder.embed([prompt])[0].numpy()
        store.put(key, embed[: 1 + max(np.flatnonzero(embed.any(1)), default=-1)])


def _read(datasets: Mapping[str, EpisodeDataset], clip: Row) -> np.ndarray:
    return read_frames(datasets[clip["dataset"]], clip["episode_index"], range(clip["start"], clip["end"] + 1))
