"""Decoded frames, memory-mapped: an episode dataset in, uint8 clips out at the speed of memory.

PNGs in parquet are small and lossless, but slow to read at random in every epoch. A camera's frames are therefore
decoded once into `.cache/frames`. This is a cache, not an artifact: it records the hash of the data it was made from,
is rebuilt when they change, and may be deleted at any time. A frame takes height x width x 3 bytes on disk, and no
memory except for the pages that are being read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from world2act.core.storage import atomic_directory, create_array, read_array, read_json, sha256, write_json
from world2act.data.features import IMAGES
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import layout_of, read_frames

FOLDER = Path(".cache/frames")


class FrameCache:
    """The frames of one camera of a dataset, or of all cameras tiled.

    Attributes:
        frames: uint8 (N, H, W, 3), read-only: all episodes concatenated.
        starts: int64 (episodes + 1,); episode i is `frames[starts[i]:starts[i + 1]]`.
    """

    def __init__(self, frames: np.ndarray, lengths: Sequence[int]) -> None:
        self.frames = frames
        self.starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @classmethod
    def open(cls, dataset: EpisodeDataset, camera: str, folder: Path = FOLDER) -> FrameCache:
        """Open the cache of one camera; see `open_all`."""
        return cls.open_all(dataset, [camera], folder)[0]

    @classmethod
    def open_all(cls, dataset: EpisodeDataset, cameras: Sequence[str], folder: Path = FOLDER) -> list[FrameCache]:
        """Open the caches of some cameras in `folder`, after building those that are missing or out of date.

        Raises:
            BadInput: a frame cannot be read. InfrastructureError: the disk is full.
        """
        source = {"data_sha256": sha256(dataset.path / "data")}
        return [cls._open(dataset, camera, folder, source) for camera in cameras]

    @classmethod
    def open_tiled(cls, dataset: EpisodeDataset, folder: Path = FOLDER) -> FrameCache:
        """Open the cache of the world model's frames: all cameras tiled; see `open_all`."""
        return cls._open(dataset, "+".join(dataset.cameras), folder, {"data_sha256": sha256(dataset.path / "data")})

    @classmethod
    def _open(cls, dataset: EpisodeDataset, name: str, folder: Path, source: dict[str, str]) -> FrameCache:
        path = folder / "-".join(dataset.path.parts[-2:]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{name}.lock")):  # all ranks of a training run open it at once
            if not (path / "source.json").exists() or read_json(path / "source.json") != source:
                with atomic_directory(path) as directory:
                    if name in dataset.cameras:
                        height, width, _ = dataset.features[IMAGES + name]["shape"]
                        _decode(dataset, (height, width), lambda i: dataset.frames(i, name), directory / "frames.npy")
                    else:
                        size = layout_of(dataset).frame_size
                        _decode(dataset, size, lambda i: read_frames(dataset, i), directory / "frames.npy")
                    write_json(directory / "source.json", source)
            return cls(read_array(path / "frames.npy"), dataset.lengths)

    def episode(self, index: int) -> np.ndarray:
        """All frames of an episode, uint8 (T, H, W, 3), not copied."""
        return self.frames[self.starts[index] : self.starts[index + 1]]

    def clips(self, episodes: Sequence[int], starts: Sequence[int], length: int) -> np.ndarray:
        """A batch of B clips, uint8 (B, length, H, W, 3): `length` frames of an episode, from frame `start`.

        Raises:
            ValueError: a clip extends past the end of its episode.
        """
        first = self.starts[np.asarray(episodes)] + np.asarray(starts)
        if (np.asarray(starts) < 0).any() or (first + length > self.starts[np.asarray(episodes) + 1]).any():
            raise ValueError(f"a clip of {length} frames extends past the end of its episode")
        batch = np.empty((len(first), length, *self.frames.shape[1:]), np.uint8)
        for clip, start in zip(batch, first, strict=True):
            clip[:] = self.frames[start : start + length]
        return batch


def _decode(dataset: EpisodeDataset, size: tuple[int, int], read: Callable[[int], np.ndarray], path: Path) -> None:
    frames = create_array(path, (sum(dataset.lengths), *size, 3), np.uint8)
    end = 0
    for index, length in enumerate(dataset.lengths):
        frames[end : end + length] = read(index)
        end += length
    frames.flush()
