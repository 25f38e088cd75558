"""Skill clips through the frozen VAE, once: what the latents stage does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.world_model.tokenizer import VideoTokenizer


def batches_of_clips(skills: Sequence[dict[str, Any]], batch_size: int) -> list[list[int]]:
    """The rows of skills.parquet in batches, shortest clips first.

    Clips of one length share a batch, so that none is padded.
    """
    by_length: dict[int, list[int]] = {}
    for row, clip in enumerate(skills):
        by_length.setdefault(clip["end"] - clip["start"] + 1, []).append(row)
    return [
        rows[start : start + batch_size]
        for _, rows in sorted(by_length.items())
        for start in range(0, len(rows), batch_size)
    ]


def encode_clips(
    tokenizer: VideoTokenizer, datasets: Mapping[str, EpisodeDataset], clips: Sequence[dict[str, Any]]
) -> np.ndarray:
    """Encode a batch of clips of one length, each from its own first frame: latent 0 is frame `start` alone.

    Args:
        datasets: name → dataset, for the column `dataset` of `clips`, rows of skills.parquet.

    Returns:
        float32 (B, 1 + (end - start) / 4, C, h, w).
    """
    return tokenizer.encode(np.stack([_frames(datasets, clip) for clip in clips])).numpy()


def _frames(datasets: Mapping[str, EpisodeDataset], clip: dict[str, Any]) -> np.ndarray:
    dataset = datasets[clip["dataset"]]
    return dataset.frames(clip["episode_index"], dataset.cameras[0], range(clip["start"], clip["end"] + 1))
