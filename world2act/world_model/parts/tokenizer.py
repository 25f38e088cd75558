"""The video tokenizer, artifacts/tokenizer/vae: frames ↔ latents.

`AutoencoderKLWan` at every size. It is causal in time: latent 0 is the first frame alone, latent k >= 1 sees no
frame after 4k. Latents are normalised by the per-channel mean and std in the VAE's config.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT, latents_of
from world2act.core.params import Tokenizer as TokenizerParams
from world2act.core.seeds import derive
from world2act.world_model.parts.checkpoint import assign_strictly, load_strictly, read_tensors
from world2act.world_model.parts.hub import locate

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan


class VideoTokenizer:
    """A frozen VAE. Frames are uint8 (B, T, H, W, 3) with T = 4k + 1; latents float32 (B, 1 + k, C, h, w). It runs on
    the VAE's device; what goes in and comes out is on the CPU."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self._mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        levels = len(vae.config.dim_mult) - 1
        self.downscale = 2**levels * (vae.config.patch_size or 1)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of frames of this size. Raises `BadInput` where the VAE would cut them off silently."""
        if height % self.downscale or width % self.downscale:
            raise BadInput(
                "params.yaml",
                "demos.image_size",
                f"{height}x{width}",
                f"multiples of {self.downscale}",
                "choose another image size",
            )
        return self.vae.config.z_dim, height // self.downscale, width // self.downscale

    def encode(self, frames: np.ndarray) -> Tensor:
        """Normalised latents of uint8 frames (B, T, H, W, 3). Raises `BadInput` as `encode_video`."""
        return self.encode_video(to_video(frames))

    def decode(self, latents: Tensor) -> np.ndarray:
        """Frames, uint8 (B, T, H, W, 3), of normalised latents."""
        return ((self.decode_video(latents) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Normalised latents of a video in [-1, 1], (B, 3, T, H, W): the posterior's mode, never a sample of it.

        Raises:
            BadInput: T is not 4k + 1, or the size is no multiple of the downscale.
        """
        latents_of(video.shape[2])
        self.latent_shape(*video.shape[3:])
        latents = self.vae.encode(video.to(self.vae.device)).latent_dist.mode().cpu()
        return ((latents - self._mean) / self._std).transpose(1, 2).contiguous()

    def empty_memory(self) -> list[Any]:
        """What `encode_next` remembers before the first frame."""
        self.vae.clear_cache()
        return list(self.vae._enc_feat_map)

    @torch.no_grad()
    def encode_next(self, video: Tensor, memory: list[Any]) -> Tensor:
        """Encode a video piece by piece: the next latent, (B, 1, C, h, w), of its first frame or its next four.

        Args:
            video: (B, 3, 1 or 4, H, W) in [-1, 1].
            memory: what is remembered of the frames before; moved on in place.
        """
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        values = video.to(self.vae.device)
        if self.vae.config.patch_size is not None:
            values = patchify(values, patch_size=self.vae.config.patch_size)
        encoded = self.vae.quant_conv(self.vae.encoder(values, feat_cache=memory, feat_idx=[0]))
        mode = encoded.chunk(2, dim=1)[0].cpu()
        return ((mode - self._mean) / self._std).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """The video in [-1, 1], (B, 3, T, H, W), of normalised latents."""
        values = latents.transpose(1, 2) * self._std + self._mean
        return self.vae.decode(values.to(self.vae.device)).sample.cpu().clamp(-1, 1)


def to_video(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) → float32 (B, 3, T, H, W) in [-1, 1], what the VAE reads."""
    return torch.as_tensor(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def make_vae(params: TokenizerParams, seed: int) -> AutoencoderKLWan:
    """An untrained `AutoencoderKLWan` of the size in `params`, weights drawn from `seed`.

    It starts as a per-frame model, as video models inflated from image models do: convolutions ignore the past, time
    is halved by leaving frames out and doubled by repeating them. Training on single frames then carries over.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d

    statistics = {"latents_mean": [0.0] * params.latent_channels, "latents_std": [1.0] * params.latent_channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "vae"))
        vae = AutoencoderKLWan(**_architecture(params), **statistics)
    for name, module in vae.named_modules():
        if isinstance(module, WanCausalConv3d) and module.weight.shape[2] == 3:
            _ignore_the_past(module, keeps_channels="time_conv" in name)
    return vae


def import_vae(params: TokenizerParams) -> AutoencoderKLWan:
    """The VAE that `params` name: the native file `tokenizer.vae`, or the vae/ of `tokenizer.source`. Frozen.

    Raises:
        BadInput: it is missing or damaged, its keys are not all accounted for, or it halves time other than twice.
    """
    if params.vae is None:
        return _load_vae(locate(params.source, "tokenizer.source", ["vae/*.json", "vae/*.safetensors"]))
    return _load_native(Path(params.vae), params)


def _load_native(path: Path, params: TokenizerParams) -> AutoencoderKLWan:
    """Open Wan2.1's own layout (Wan2.1_VAE.pth, Cosmos' tokenizer.pth), of the dimensions in `params`.

    The file holds no statistics of the latents; they are the published ones, which diffusers' class has as defaults.
    """
    from accelerate import init_empty_weights
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    state = read_tensors(path)
    architecture = _architecture(params)
    with init_empty_weights():
        vae = AutoencoderKLWan(**architecture)
    if len(vae.config.latents_mean) != params.latent_channels:
        found, expected = (
            f"{params.latent_channels} channels",
            f"{len(vae.config.latents_mean)}, whose statistics are known",
        )
        raise BadInput("params.yaml", "tokenizer.latent_channels", found, expected, "a native VAE is Wan2.1's alone")
    return assign_strictly(vae, convert_wan_vae_to_diffusers(state), path)


def _architecture(params: TokenizerParams) -> dict[str, Any]:
    levels, patch = len(params.dim_mult) - 1, params.patch_size
    if levels < 2:
        raise BadInput(
            "params.yaml",
            "tokenizer.dim_mult",
            params.dim_mult,
            "at least 3 entries: two levels halve the time",
            "add some",
        )
    return {
        "base_dim": params.base_dim,
        "z_dim": params.latent_channels,
        "dim_mult": params.dim_mult,
        "num_res_blocks": params.num_res_blocks,
        "temperal_downsample": [False] * (levels - 2) + [True, True],
        "in_channels": 3 * patch**2,
        "out_channels": 3 * patch**2,
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": FRAMES_PER_LATENT,
        "scale_factor_spatial": 2**levels * patch,
    }


@torch.no_grad()
def _ignore_the_past(conv: nn.Conv3d, keeps_channels: bool) -> None:
    weight = torch.zeros_like(conv.weight)
    if keeps_channels:
        copies = conv.out_channels // conv.in_channels
        weight[:, :, -1, 0, 0] = torch.eye(conv.in_channels).repeat(copies, 1)
        if conv.bias is not None:
            conv.bias.zero_()
    else:
        weight[:, :, -1] = conv.weight[:, :, -1] * math.sqrt(3)  # a third of the taps, the same variance
    conv.weight.copy_(weight)


def load_tokenizer(directory: str | Path) -> VideoTokenizer:
    """Open `directory`/vae.

    Raises:
        BadInput: as `load_strictly`, or the VAE compresses time by another factor than 4.
    """
    vae = _load_vae(Path(directory))
    nn.Module.to(vae, best_device())
    return VideoTokenizer(vae)


def _load_vae(directory: Path) -> AutoencoderKLWan:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    root = directory / "vae"
    vae = load_strictly(AutoencoderKLWan, root, "run the tokenizer stage, or correct tokenizer.source")
    if sum(vae.config.temperal_downsample) != 2:
        raise BadInput(
            root / "config.json",
            "temperal_downsample",
            vae.config.temperal_downsample,
            "two levels of time (4x)",
            "use another VAE",
        )
    return vae
