"""Labelled episodes in memory, seen as (observation, action chunk) pairs that start at any frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from world2act.data.lerobot_v3 import IMAGES, EpisodeDataset


@dataclass(frozen=True)
class ChunkDataset:
    """N frames of whole episodes, one behind another.

    Attributes:
        images: uint8 (N, V, H, W, 3), V cameras in the dataset's order.
        proprio: float32 (N, P). actions: float32 (N, A), the label of each frame.
        ends: int64 (N,), one beyond the last frame of the frame's episode.
        instruction: int64 (N,), a row of `instructions`.
        instructions: the distinct instructions, in the order of first use.
    """

    images: np.ndarray
    proprio: np.ndarray
    actions: np.ndarray
    ends: np.ndarray
    instruction: np.ndarray
    instructions: list[str]

    @classmethod
    def load(cls, dataset: EpisodeDataset, episodes: Sequence[int]) -> Self:
        """Read and decode some episodes: 12 KiB of memory a frame of 64 x 64 pixels."""
        names = [*(IMAGES + camera for camera in dataset.cameras), "observation.state", "action"]
        parts = [dataset.columns(index, names) for index in episodes]
        lengths = np.array([dataset.lengths[index] for index in episodes])
        texts = [dataset.episodes[index].instruction for index in episodes]
        instructions = list(dict.fromkeys(texts))
        return cls(
            images=np.concatenate([np.stack([part[name] for name in names[:-2]], 1) for part in parts]),
            proprio=np.concatenate([part["observation.state"] for part in parts]),
            actions=np.concatenate([part["action"] for part in parts]),
            ends=np.repeat(lengths.cumsum(), lengths),
            instruction=np.repeat([instructions.index(text) for text in texts], lengths),
            instructions=instructions,
        )

    def __len__(self) -> int:
        return len(self.actions)

    def chunks(self, frames: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The actions that follow each of B frames.

        Returns:
            float32 (B, length, A), zero beyond the episode's end, and bool (B, length), true on actions that exist.
        """
        rows = frames[:, None] + np.arange(length)
        real = rows < self.ends[frames][:, None]
        return np.where(real[..., None], self.actions[np.minimum(rows, len(self) - 1)], 0).astype(np.float32), real
