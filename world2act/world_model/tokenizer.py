"""The video tokenizer, artifacts/tokenizer/vae: frames ↔ latents, and the objective that trains the tiny one.

`AutoencoderKLWan` at every size. It is causal in time: latent 0 is the first frame alone, latent k >= 1 sees no
frame after 4k. Latents are normalised by the per-channel mean and std that stand in the VAE's config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.errors import BadInput
from world2act.params import Tokenizer as TokenizerParams
from world2act.storage import write_parquet
from world2act.training.objective import Place
from world2act.world_model.preview import save_strip

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

FRAMES_PER_LATENT = 4
RECONSTRUCTION_SCHEMA = pa.schema([
    ("episode_index", pa.int64()), ("task", pa.string()), ("skill_index", pa.int64()), ("psnr_db", pa.float64()), ("frame_std", pa.float64()),
])
_MEASURED_EPISODES = 64
_PREVIEWS = 8
_FOREGROUND = 0.16  # of the range -1..1: what a pixel must differ from the background
_MEDIAN_STRIDE = 5


class VideoTokenizer:
    """A frozen VAE. Frames are uint8 (B, T, H, W, 3) with T = 4k + 1; latents float32 (B, 1 + k, C, h, w)."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self._mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        levels = len(vae.config.dim_mult) - 1
        self.downscale = 2**levels * (vae.config.patch_size or 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of frames of this size. Raises `BadInput` where the VAE would cut them off silently."""
        if height % self.downscale or width % self.downscale:
            raise BadInput("params.yaml", "demos.image_size", f"{height}x{width}", f"multiples of {self.downscale}",
                           "choose another image size")
        return self.vae.config.z_dim, height // self.downscale, width // self.downscale

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Normalised latents: the posterior's mode, never a sample of it.

        Raises:
            BadInput: T is not 4k + 1, or the size is no multiple of the downscale.
        """
        if (frames.shape[1] - 1) % FRAMES_PER_LATENT:
            raise BadInput("a clip", "frames", frames.shape[1], "4k + 1", "cut clips on the grid of 4 (skills stage)")
        self.latent_shape(*frames.shape[2:4])
        latents = self.vae.encode(to_video(frames)).latent_dist.mode()
        return ((latents - self._mean) / self._std).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames of normalised latents."""
        video = self.vae.decode(latents.transpose(1, 2) * self._std + self._mean).sample
        return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()


def to_video(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) → float32 (B, 3, T, H, W) in [-1, 1], what the VAE reads."""
    return torch.as_tensor(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def make_vae(params: TokenizerParams, seed: int) -> AutoencoderKLWan:
    """An untrained `AutoencoderKLWan` of the size in `params`, weights drawn from `seed`.

    It starts as a per-frame model, as video models inflated from image models do: convolutions ignore the past, time
    is halved by leaving frames out and doubled by repeating them. Training on single frames then carries over.
    """
    from diffusers import AutoencoderKLWan
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    levels, patch = len(params.dim_mult) - 1, params.patch_size
    if levels < 2:
        raise BadInput("params.yaml", "tokenizer.dim_mult", params.dim_mult, "at least 3 entries: two levels halve the time", "add some")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=params.base_dim, z_dim=params.latent_channels, dim_mult=params.dim_mult,
            num_res_blocks=params.num_res_blocks, temperal_downsample=[False] * (levels - 2) + [True, True],
            latents_mean=[0.0] * params.latent_channels, latents_std=[1.0] * params.latent_channels,
            in_channels=3 * patch**2, out_channels=3 * patch**2, patch_size=patch if patch > 1 else None,
            scale_factor_temporal=FRAMES_PER_LATENT, scale_factor_spatial=2**levels * patch,
        )
    for name, module in vae.named_modules():
        if isinstance(module, WanCausalConv3d) and module.weight.shape[2] == 3:
            _ignore_the_past(module, keeps_channels="time_conv" in name)
    return vae


@torch.no_grad()
def _ignore_the_past(conv: nn.Conv3d, keeps_channels: bool) -> None:
    weight = torch.zeros_like(conv.weight)
    if keeps_channels:
        copies = conv.out_channels // conv.in_channels
        weight[:, :, -1, 0, 0] = torch.eye(conv.in_channels).repeat(copies, 1)
        conv.bias.zero_()
    else:
        weight[:, :, -1] = conv.weight[:, :, -1] * math.sqrt(3)  # a third of the taps, the same variance
    conv.weight.copy_(weight)


def load_tokenizer(directory: str | Path) -> VideoTokenizer:
    """Open `directory`/vae.

    Raises:
        BadInput: there is none, its keys are not the model's, or it was trained by another time compression.
    """
    from diffusers import AutoencoderKLWan

    root = Path(directory) / "vae"
    if not root.is_dir():
        raise BadInput(root, "", "nothing", "an AutoencoderKLWan in diffusers layout", "run the tokenizer stage, or correct tokenizer.source")
    vae, info = AutoencoderKLWan.from_pretrained(root, local_files_only=True, output_loading_info=True)
    faults = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if faults:
        raise BadInput(root, str(faults[0]), f"{len(faults)} keys do not match", "the model's own keys", "use an AutoencoderKLWan checkpoint")
    if sum(vae.config.temperal_downsample) != 2:
        raise BadInput(root / "config.json", "temperal_downsample", vae.config.temperal_downsample, "two levels of time (4x)", "use another VAE")
    return VideoTokenizer(vae)


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
        self, vae: AutoencoderKLWan, episodes: Sequence[np.ndarray], tasks: Sequence[str], params: TokenizerParams, steps: int
    ) -> None:
        short = min(len(frames) for frames in episodes)
        if short < params.clip_frames or (params.clip_frames - 1) % FRAMES_PER_LATENT:
            raise BadInput("params.yaml", "tokenizer.clip_frames", params.clip_frames, f"4k + 1, at most {short} (the shortest episode)", "correct it")
        self._latent_shape = VideoTokenizer(vae).latent_shape(*episodes[0].shape[1:3])
        self.model = Reconstruction(vae.train().requires_grad_(True))
        self._episodes, self._params, self._image_steps = episodes, params, round(params.image_share * steps)
        medians = {task: _median([frames for frames, other in zip(episodes, tasks, strict=True) if other == task]) for task in set(tasks)}
        self._backgrounds = [medians[task] for task in tasks]

    def batch(self, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """Video (B, 3, T, H, W), posterior noise (B, C, t, h, w), pixel weights (B, 1, T, H, W) of mean 1."""
        frames, count = self._params.clip_frames, place.batch_size
        if place.step < self._image_steps:
            frames, count = 1, place.batch_size * (frames // 2)
        windows, backgrounds = [], []
        for episode in torch.randint(len(self._episodes), (count,), generator=place.generator).tolist():
            start = int(torch.randint(len(self._episodes[episode]) - frames + 1, (), generator=place.generator))
            windows.append(self._episodes[episode][start : start + frames])
            backgrounds.append(self._backgrounds[episode][None])
        video, background = to_video(np.stack(windows)), to_video(np.stack(backgrounds))
        foreground = (video - background).abs().amax(1, keepdim=True) > _FOREGROUND
        weights = 1 + self._params.foreground_weight * foreground
        channels, height, width = self._latent_shape
        noise = torch.randn(count, channels, 1 + frames // FRAMES_PER_LATENT, height, width, generator=place.generator)
        return video.to(place.device), noise.to(place.device), (weights / weights.mean()).to(place.device)

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], place: Place
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
    """Measure the per-channel mean and std of the latents of whole episodes, uint8 (T, H, W, 3) each, into the VAE's config."""
    channels = vae.config.z_dim
    vae.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    tokenizer = VideoTokenizer(vae)
    clips = [frames[: 1 + (len(frames) - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT] for frames in episodes[:_MEASURED_EPISODES]]
    latents = torch.cat([tokenizer.encode(clip[None])[0] for clip in clips]).transpose(0, 1).flatten(1).double()
    vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


def measure_reconstruction(tokenizer: VideoTokenizer, episodes: EpisodeDataset, clips: Sequence[dict[str, Any]], directory: Path) -> dict[str, float]:
    """Encode and decode held-out skill clips (rows of skills.parquet) into reconstruction.parquet and preview/.

    Returns:
        Mean and lowest PSNR over clips, decibels.
    """
    rows = []
    (directory / "preview").mkdir()
    for i, clip in enumerate(clips):
        frames = episodes.frames(clip["episode_index"], episodes.cameras[0], range(clip["start"], clip["end"] + 1))
        restored = tokenizer.decode(tokenizer.encode(frames[None]))[0]
        error = np.square(frames.astype(np.float64) - restored).mean()
        rows.append({
            "episode_index": clip["episode_index"], "task": clip["task"], "skill_index": clip["skill_index"],
            "psnr_db": 10 * np.log10(255**2 / max(error, 1e-10)), "frame_std": frames.std(0).mean(),
        })
        if i < _PREVIEWS:
            save_strip(directory / "preview" / f"{i}.png", [frames, restored])
    write_parquet(directory / "reconstruction.parquet", rows, RECONSTRUCTION_SCHEMA)
    psnr_db = [row["psnr_db"] for row in rows]
    return {"psnr_db": float(np.mean(psnr_db)), "lowest_psnr_db": float(np.min(psnr_db)), "heldout_clips": len(rows)}
