"""Training and measuring the tiny video tokenizer: frames in; weights, statistics, reconstruction.parquet out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT, floor_to_latent, latents_of
from world2act.core.params import Tokenizer as TokenizerParams
from world2act.core.tables import write_rows
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import layout_of, read_frames
from world2act.training.objective import BatchPosition, draw
from world2act.world_model.learning.rows import ReconstructionRow
from world2act.world_model.parts.tokenizer import VideoTokenizer, to_video

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

_MEASURED_EPISODES = 32
_FOREGROUND = 0.16  # of the range -1..1: what a pixel must differ from the background
_MEDIAN_STRIDE = 5


class Reconstruction(nn.Module):
    """The VAE as it is trained: video → (reconstruction, posterior mean, posterior log-variance)."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Args: video (B, 3, T, H, W) in [-1, 1]; noise (B, C, t, h, w), standard normal, of the posterior's sample."""
        posterior = self.vae.encode(video).latent_dist
        return self.vae.decode(posterior.mean + posterior.std * noise).sample, posterior.mean, posterior.logvar


class ReconstructionObjective:
    """Squared and absolute pixel error plus a small KL divergence, on random windows of training episodes.

    The first share of the steps sees single frames: a frame is learned at a ninth of a window's cost, and the VAE
    begins as a per-frame model (see `make_vae`). Pixels that differ from the task's median picture, the arm and the
    objects, weigh more: they are few, and what the pipeline is about.

    Args:
        episodes: uint8 (T, H, W, 3) each.
        tasks: the task of each episode.
        steps: optimiser steps of the whole training.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        episodes: Sequence[np.ndarray],
        tasks: Sequence[str],
        params: TokenizerParams,
        steps: int,
    ) -> None:
        short = min(len(frames) for frames in episodes)
        if short < params.clip_frames or (params.clip_frames - 1) % FRAMES_PER_LATENT:
            raise BadInput(
                "params.yaml",
                "tokenizer.clip_frames",
                params.clip_frames,
                f"4k + 1, at most {short} (the shortest episode)",
                "correct it",
            )
        self._latent_shape = VideoTokenizer(vae).latent_shape(*episodes[0].shape[1:3])
        self.model = Reconstruction(vae.train().requires_grad_(True))
        self._episodes, self._params, self._image_steps = episodes, params, round(params.image_share * steps)
        medians = {
            task: _median([frames for frames, other in zip(episodes, tasks, strict=True) if other == task])
            for task in set(tasks)
        }
        self._backgrounds = [medians[task] for task in tasks]

    def batch(self, position: BatchPosition) -> tuple[Tensor, Tensor, Tensor]:
        """Video (B, 3, T, H, W), posterior noise (B, C, t, h, w), pixel weights (B, 1, T, H, W) of mean 1."""
        frames, windows_each = self._params.clip_frames, 1
        if position.step < self._image_steps:
            frames, windows_each = 1, frames // 2
        windows, backgrounds, generators = [], [], position.generators()
        for generator in generators:
            for episode in torch.randint(len(self._episodes), (windows_each,), generator=generator).tolist():
                start = int(torch.randint(len(self._episodes[episode]) - frames + 1, (), generator=generator))
                windows.append(self._episodes[episode][start : start + frames])
                backgrounds.append(self._backgrounds[episode][None])
        video, background = to_video(np.stack(windows)), to_video(np.stack(backgrounds))
        foreground = (video - background).abs().amax(1, keepdim=True) > _FOREGROUND
        weights = 1 + self._params.foreground_weight * foreground
        channels, height, width = self._latent_shape
        shape = (channels, latents_of(frames), height, width)
        noise = draw(generators, "randn", windows_each, *shape).flatten(0, 1)
        return video.to(position.device), noise.to(position.device), (weights / weights.mean()).to(position.device)

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], position: BatchPosition
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        video, noise, weights = batch
        restored, mean, logvar = model(video, noise)
        error = (restored - video).abs()
        pixels = (weights * (error.square() + error)).mean()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        psnr_db = 10 * torch.log10(4 / error.detach().square().mean())
        return pixels + self._params.kl_weight * divergence, {"psnr_db": psnr_db, "kl": divergence.detach()}


def _median(episodes: Sequence[np.ndarray]) -> np.ndarray:
    return np.median(np.concatenate([frames[::_MEDIAN_STRIDE] for frames in episodes]), axis=0).astype(np.uint8)


def measure_latents(vae: AutoencoderKLWan, episodes: Sequence[np.ndarray]) -> None:
    """Measure the latents' per-channel mean and std on episodes, uint8 (T, H, W, 3) each, into the VAE's config."""
    channels = vae.config.z_dim
    vae.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    tokenizer = VideoTokenizer(vae)
    clips = [frames[: floor_to_latent(len(frames) - 1) + 1] for frames in episodes[:_MEASURED_EPISODES]]
    latents = torch.cat([tokenizer.encode(clip[None])[0] for clip in clips]).transpose(0, 1).flatten(1).double()
    vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


def measure_reconstruction(
    tokenizer: VideoTokenizer, episodes: EpisodeDataset, clips: Sequence[dict[str, Any]], directory: Path
) -> dict[str, float]:
    """Encode and decode held-out skill clips (rows of skills.parquet) into reconstruction.parquet.

    Returns:
        Mean and lowest PSNR over clips, decibels; of the cameras' views, empty tiles left out.
    """
    rows, layout = [], layout_of(episodes)
    for clip in clips:
        frames = read_frames(episodes, clip["episode_index"], range(clip["start"], clip["end"] + 1))
        restored = tokenizer.decode(tokenizer.encode(frames[None]))[0]
        seen, shown = (np.stack([*layout.untile(video).values()], 1) for video in (frames, restored))
        error = np.square(seen.astype(np.float64) - shown).mean()
        psnr_db = float(10 * np.log10(255**2 / max(error, 1e-10)))
        rows.append(
            ReconstructionRow(
                clip["episode_index"], clip["task"], clip["skill_index"], psnr_db, float(seen.std(0).mean())
            )
        )
    write_rows(directory / "reconstruction.parquet", ReconstructionRow, rows)
    ratios = [row.psnr_db for row in rows]
    return {"psnr_db": float(np.mean(ratios)), "lowest_psnr_db": float(np.min(ratios)), "heldout_clips": len(rows)}
