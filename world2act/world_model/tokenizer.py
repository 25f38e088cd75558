"""The video tokenizer, artifacts/tokenizer/vae: frames ↔ latents, and the objective that trains the tiny one.

`AutoencoderKLWan` at every size. It is causal in time: latent 0 is the first frame alone, latent k >= 1 sees no
frame after 4k. Latents are normalised by the per-channel mean and std that stand in the VAE's config.
"""

from __future__ import annotations

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
    """An untrained `AutoencoderKLWan` of the size in `params`, weights drawn from `seed`."""
    from diffusers import AutoencoderKLWan

    levels, patch = len(params.dim_mult) - 1, params.patch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKLWan(
            base_dim=params.base_dim, z_dim=params.latent_channels, dim_mult=params.dim_mult,
            num_res_blocks=params.num_res_blocks, temperal_downsample=[False] * (levels - 2) + [True, True],
            latents_mean=[0.0] * params.latent_channels, latents_std=[1.0] * params.latent_channels,
            in_channels=3 * patch**2, out_channels=3 * patch**2, patch_size=patch if patch > 1 else None,
            scale_factor_temporal=FRAMES_PER_LATENT, scale_factor_spatial=2**levels * patch,
        )


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

    Args:
        episodes: uint8 (T, H, W, 3) each.
    """

    def __init__(self, vae: AutoencoderKLWan, episodes: Sequence[np.ndarray], clip_frames: int, kl_weight: float) -> None:
        short = min(len(frames) for frames in episodes)
        if short < clip_frames or (clip_frames - 1) % FRAMES_PER_LATENT:
            raise BadInput("params.yaml", "tokenizer.clip_frames", clip_frames, f"4k + 1, at most {short} (the shortest episode)", "correct it")
        self.model = Reconstruction(vae)
        self._episodes, self._clip_frames, self._kl_weight = episodes, clip_frames, kl_weight
        self._latent_shape = (vae.config.z_dim, 1 + (clip_frames - 1) // FRAMES_PER_LATENT)
        self._downscale = VideoTokenizer(vae).downscale
        vae.train().requires_grad_(True)

    def batch(self, place: Place) -> tuple[Tensor, Tensor]:
        windows = []
        for episode in torch.randint(len(self._episodes), (place.batch_size,), generator=place.generator).tolist():
            frames = self._episodes[episode]
            start = int(torch.randint(len(frames) - self._clip_frames + 1, (), generator=place.generator))
            windows.append(frames[start : start + self._clip_frames])
        video = to_video(np.stack(windows))
        size = [side // self._downscale for side in video.shape[-2:]]
        noise = torch.randn(place.batch_size, *self._latent_shape, *size, generator=place.generator)
        return video.to(place.device), noise.to(place.device)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        video, noise = batch
        restored, mean, logvar = model(video, noise)
        squared, absolute = F.mse_loss(restored, video), F.l1_loss(restored, video)
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        psnr_db = 10 * torch.log10(4 / squared.detach())
        return squared + absolute + self._kl_weight * divergence, {"psnr_db": psnr_db, "kl": divergence.detach()}


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
