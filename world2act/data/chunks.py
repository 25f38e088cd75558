"""Labelled episodes as (observation, action chunk) pairs, which may start at any frame.

Frames stay on disk, memory-mapped; everything else is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from world2act.data.frame_cache import FrameCache
from world2act.data.lerobot_v3 import EpisodeDataset


@dataclass(frozen=True)
class ChunkDataset:
    """The N frames of some episodes, concatenated.

    Attributes:
        cameras: one array per camera, in the dataset's order: all frames of the dataset, uint8 (frames, H, W, 3).
        rows: int64 (N,), the index of each of the N frames in those arrays.
        proprio: float32 (N, P).
        actions: float32 (N, A), the label of each frame.
        ends: int64 (N,), one past the last frame of the frame's episode.
        instruction: int64 (N,), an index into `instructions`.
        instructions: the distinct instructions, in order of first use.
    """

    cameras: list[np.ndarray]
    rows: np.ndarray
    proprio: np.ndarray
    actions: np.ndarray
    ends: np.ndarray
    instruction: np.ndarray
    instructions: list[str]

    @classmethod
    def load(cls, dataset: EpisodeDataset, episodes: Sequence[int]) -> Self:
        """Read some episodes; frames that are not in the frame cache yet are decoded into it."""
        parts = [dataset.columns(index, ["observation.state", "action"]) for index in episodes]
        caches = FrameCache.open_all(dataset, dataset.cameras)
        lengths = np.array([dataset.lengths[index] for index in episodes])
        texts = [dataset.episodes[index].instruction for index in episodes]
        instructions = list(dict.fromkeys(texts))
        return cls(
            cameras=[cache.frames for cache in caches],
            rows=np.concatenate([np.arange(*caches[0].starts[index : index + 2]) for index in episodes]),
            proprio=np.concatenate([part["observation.state"] for part in parts]),
            actions=np.concatenate([part["action"] for part in parts]),
            ends=np.repeat(lengths.cumsum(), lengths),
            instruction=np.repeat([instructions.index(text) for text in texts], lengths),
            instructions=instructions,
        )

    def __len__(self) -> int:
        return len(self.actions)

    def images(self, frames: np.ndarray | slice) -> np.ndarray:
        """The images of B frames from V cameras, uint8 (B, V, H, W, 3)."""
        rows = self.rows[frames]
        return np.stack([camera[rows] for camera in self.cameras], 1)

    def chunks(self, frames: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The actions that follow each of B frames.

        Returns:
            float32 (B, length, A), zero after the episode's end, and bool (B, length), true where an action exists.
        """
        rows = frames[:, None] + np.arange(length)
        real = rows < self.ends[frames][:, None]
        return np.where(real[..., None], self.actions[np.minimum(rows, len(self) - 1)], 0).astype(np.float32), real
