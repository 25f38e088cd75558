"""Statistics of latent channels, which the gates of latents and of rollouts compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world2act.data.latent_cache import LatentCache


@dataclass(frozen=True)
class Channel:
    """Mean and standard deviation of one latent channel."""

    channel: int
    mean: float
    std: float


def measure_channels(cache: LatentCache) -> list[Channel]:
    """The mean and standard deviation of each channel over the training clips of both datasets."""
    values = np.concatenate([cache.latents(clip) for clip in cache.clips if clip.subset == "train"])
    with np.errstate(invalid="ignore"):  # an infinite latent gives NaN, which is reported as unmeasured
        mean, std = values.mean((0, 2, 3), np.float64), values.std((0, 2, 3), np.float64)
    return [Channel(i, float(m), float(s)) for i, (m, s) in enumerate(zip(mean, std, strict=True))]
