"""Pictures against pictures: decoded frames and real ones in, PSNR, SSIM and LPIPS out."""

from __future__ import annotations

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from world2act.world_model.judging.lpips import Lpips

_MOST_DB = 100.0  # where two pictures are the same


def picture_metrics(frames: np.ndarray, real: np.ndarray, lpips: Lpips | None) -> dict[str, float]:
    """Means over pairs of frames, uint8 (N, H, W, 3) each.

    Returns:
        psnr (decibels, at most 100), ssim (Wang et al. 2004: Gaussian windows, sigma 1.5) and, where there are weights
        for it, lpips.
    """
    pairs = list(zip(real, frames, strict=True))
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    with np.errstate(divide="ignore"):
        psnr = [min(peak_signal_noise_ratio(*pair, data_range=255), _MOST_DB) for pair in pairs]
    ssim = [structural_similarity(*pair, channel_axis=-1, **options) for pair in pairs]
    metrics = {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(ssim))}
    return metrics if lpips is None else metrics | {"lpips": float(lpips.distance(frames, real).mean())}
