"""One demonstration in memory, and its encoded form on the way to a LeRobot v3 file."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass
class Episode:
    """One demonstration of T frames.

    Attributes:
        task: the key of the task in its simulator or dataset; instructions may repeat, keys may not.
        instruction: the task in words.
        seed: what the scene was drawn from.
        images: camera name → uint8 (T, H, W, 3).
        arrays: feature name → numbers (T, D), float32 where we record them; row t was observed before, or is, action t.
    """

    task: str
    instruction: str
    seed: int
    images: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]


@dataclass
class EncodedEpisode:
    """An episode with lossless PNG frames and the histogram of their pixels, made where the episode was made.

    `language`: what is said of it, rows of LeRobot's column `language_persistent`.
    """

    task: str
    instruction: str
    seed: int
    length: int
    pngs: dict[str, list[bytes]]
    histograms: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    language: list[dict[str, Any]] = field(default_factory=list)


def encode(episode: Episode) -> EncodedEpisode:
    """Compress the frames. Histograms are int64 (3, 256) a camera: exact statistics without the pixels."""
    lengths = {len(values) for values in (*episode.images.values(), *episode.arrays.values())}
    if len(lengths) != 1:
        raise ValueError(f"{episode.task} seed {episode.seed}: features of different lengths {sorted(lengths)}")
    pngs = {camera: [_png(frame) for frame in frames] for camera, frames in episode.images.items()}
    histograms = {
        camera: np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])
        for camera, frames in episode.images.items()
    }
    return EncodedEpisode(
        episode.task, episode.instruction, episode.seed, lengths.pop(), pngs, histograms, episode.arrays
    )


def array_statistics(values: np.ndarray) -> dict[str, list[float] | list[int]]:
    """LeRobot's statistics of a feature (N, D): lists of length D, and the count."""
    exact = values.astype(np.float64)
    statistics = {"min": exact.min(0), "max": exact.max(0), "mean": exact.mean(0), "std": exact.std(0)}
    statistics |= {name: np.quantile(exact, q, axis=0) for name, q in QUANTILES.items()}
    return {name: value.tolist() for name, value in statistics.items()} | {"count": [len(values)]}


def image_statistics(histogram: np.ndarray, frames: int) -> dict[str, list]:
    """LeRobot's statistics of a camera, of shape (3, 1, 1) in [0, 1], from an int64 (3, 256) histogram."""
    levels = np.arange(256) / 255
    counts = histogram.sum(1)
    mean = histogram @ levels / counts
    statistics = {
        "min": np.array([levels[h.nonzero()[0][0]] for h in histogram]),
        "max": np.array([levels[h.nonzero()[0][-1]] for h in histogram]),
        "mean": mean,
        "std": np.sqrt(np.maximum(histogram @ levels**2 / counts - mean**2, 0)),
    }
    for name, q in QUANTILES.items():
        statistics[name] = np.array([levels[np.searchsorted(h.cumsum(), q * h.sum())] for h in histogram])
    return {name: value.reshape(3, 1, 1).tolist() for name, value in statistics.items()} | {"count": [frames]}


def _png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
