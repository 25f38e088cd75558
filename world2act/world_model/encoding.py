"""Skill clips through the frozen VAE, once: what the latents stage does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.world_model.tokenizer import VideoTokenizer


def encode_clips(
    tokenizer: VideoTokenizer, datasets: Mapping[str, EpisodeDataset], skills: Sequence[dict[str, Any]], batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Encode each clip from its own first frame: latent 0 is frame `start` alone.

    Clips of one length share a batch, so that none is padded.

    Args:
        datasets: name → dataset, for the column `dataset` of `skills`, the rows of skills.parquet.

    Yields:
        (row of `skills`, float32 (1 + (end - start) / 4, C, h, w)), shortest clips first.
    """
    by_length: dict[int, list[int]] = {}
    for row, clip in enumerate(skills):
        by_length.setdefault(clip["end"] - clip["start"] + 1, []).append(row)
    for _, rows in sorted(by_length.items()):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            latents = tokenizer.encode(np.stack([_frames(datasets, skills[row]) for row in batch]))
            yield from zip(batch, latents.numpy(), strict=True)


def _frames(datasets: Mapping[str, EpisodeDataset], clip: dict[str, Any]) -> np.ndarray:
    dataset = datasets[clip["dataset"]]
    return dataset.frames(clip["episode_index"], dataset.cameras[0], range(clip["start"], clip["end"] + 1))
