"""One demonstration in memory, and its encoded form on the way to a LeRobot v3 file."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from world2act.data.features import LanguageRow


@dataclass
class Episode:
    """One demonstration of T frames.

    Attributes:
        task: the key of the task in its simulator or dataset. It is unique; instructions need not be.
        instruction: the task in words.
        seed: the seed of the scene.
        images: camera name → uint8 (T, H, W, 3).
        arrays: feature name → numbers (T, D), float32 in our recordings; row t was observed before action t, or is
            action t.
    """

    task: str
    instruction: str
    seed: int
    images: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


@dataclass
class EncodedEpisode:
    """An episode with lossless PNG frames and the histogram of their pixels, encoded in the process that recorded it.

    `language`: its annotations, rows of LeRobot's column `language_persistent`.
    """

    task: str
    instruction: str
    seed: int
    length: int
    pngs: dict[str, list[bytes]]
    histograms: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    language: list[LanguageRow] = field(default_factory=list)


def encode(episode: Episode) -> EncodedEpisode:
    """Compress the frames. Histograms are int64 (3, 256) per camera: exact statistics without the pixels."""
    lengths = {len(values) for values in (*episode.images.values(), *episode.arrays.values())}
    if len(lengths) != 1:
        raise ValueError(f"{episode.task}, seed {episode.seed}: its features have different lengths {sorted(lengths)}")
    pngs = {camera: [_png(frame) for frame in frames] for camera, frames in episode.images.items()}
    histograms = {
        camera: np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])
        for camera, frames in episode.images.items()
    }
    return EncodedEpisode(
        episode.task, episode.instruction, episode.seed, lengths.pop(), pngs, histograms, episode.arrays
    )


def _png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
