"""Latent caches for tests, of any arrays, written by the project's own writers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world2act.data.array_store import ArrayStore
from world2act.data.latent_index import write_index
from world2act.data.tiling import Layout


def write_latents(
    directory: Path,
    skills: Sequence[dict[str, Any]],
    latents: Iterable[tuple[int, np.ndarray]],
    latent_shape: tuple[int, int, int],
    prompts: Sequence[str],
    prompt_embeds: np.ndarray,
    meta: Mapping[str, Any],
    keys: Sequence[str] | None = None,
) -> None:
    """Write a cache into an existing directory.

    Args:
        skills: rows of skills.parquet. latents: (row, array) in any order. prompt_embeds: (P, L, D).
        meta: overrides what stands in meta.json. keys: of the rows; without them, of the latents themselves.
    """
    clips, texts, named = ArrayStore(directory / "clips"), ArrayStore(directory / "prompts"), {}
    for row, array in latents:
        named[row] = keys[row] if keys else hashlib.sha256(np.asarray(array, np.float32).tobytes()).hexdigest()
        clips.put(named[row], array)
    rows = {prompt: hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts}
    for prompt, embed in zip(prompts, prompt_embeds, strict=True):
        texts.put(rows[prompt], embed)
    described = {
        "encoding": {"vae_sha256": "0" * 64},
        "text": {"text_encoder_sha256": "0" * 64, "text_tokenizer_sha256": "0" * 64},
        "latent_shape": list(latent_shape),
        "text_shape": list(np.shape(prompt_embeds)[1:]),
        "views": Layout.of(["main"], (8 * latent_shape[1], 8 * latent_shape[2])).to_json(),
    }
    write_index(directory, skills, [named[row] for row in range(len(skills))], rows, described | dict(meta))
