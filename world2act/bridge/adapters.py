"""Stage 1's networks: video latents and action chunks into one space, and back from it to actions.

Source: World2Act (arXiv 2603.10422) §3.2; the sizes are the paper's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.storage import read_json, read_tensors, write_json

_GROUPS = 8


class VideoAdapter(nn.Module):
    """B_v: one latent frame → one token.  (..., C, H, W) → (..., D)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=2, padding=1),
            nn.GroupNorm(_GROUPS, 64),
            nn.GELU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.GroupNorm(_GROUPS, 128),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, dim),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.frame(latents.flatten(0, -4)).unflatten(0, latents.shape[:-3])


class ActionAdapter(nn.Module):
    """B_a: one normalised action chunk → one token.  (..., M, A) → (..., D)."""

    def __init__(self, action_dim: int, dim: int) -> None:
        super().__init__()
        sizes = (
            nn.Linear(action_dim * FRAMES_PER_LATENT, 128),
            nn.GELU(),
            nn.Linear(128, 64),
            nn.GELU(),
            nn.Linear(64, dim),
        )
        self.chunk = nn.Sequential(*sizes)

    def forward(self, chunks: Tensor) -> Tensor:
        return self.chunk(chunks.flatten(-2))


class ActionDecoder(nn.Module):
    """D_a: one token → one normalised action chunk, the mirror of B_a.  (..., D) → (..., M, A)."""

    def __init__(self, action_dim: int, dim: int) -> None:
        super().__init__()
        self.shape = (FRAMES_PER_LATENT, action_dim)
        sizes = (
            nn.Linear(dim, 64),
            nn.GELU(),
            nn.Linear(64, 128),
            nn.GELU(),
            nn.Linear(128, action_dim * FRAMES_PER_LATENT),
        )
        self.chunk = nn.Sequential(*sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.chunk(tokens).unflatten(-1, self.shape)


class Bridge(nn.Module):
    """Both adapters, the decoder, and the mean and standard deviation that normalise actions."""

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, latent_channels: int, action_dim: int, dim: int) -> None:
        super().__init__()
        self.config = {
            "latent_channels": latent_channels,
            "action_dim": action_dim,
            "dim": dim,
        }
        self.video_adapter = VideoAdapter(latent_channels, dim)
        self.action_adapter = ActionAdapter(action_dim, dim)
        self.action_decoder = ActionDecoder(action_dim, dim)
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))

    def fit_normalisation(self, actions: Tensor, lengths: Tensor) -> None:
        """Measure mean and standard deviation on padded chunks (N, T, M, A) with `lengths` (N,) real ones."""
        real = actions[torch.arange(actions.shape[1]) < lengths[:, None]].flatten(0, -2)
        self.action_mean.copy_(real.mean(0))
        # a dimension that never moves stays as it is
        self.action_std.copy_(torch.where(real.std(0) > 1e-6, real.std(0), 1.0))

    def normalise(self, actions: Tensor) -> Tensor:
        """Environment units → zero mean and unit variance, (..., A)."""
        return (actions - self.action_mean) / self.action_std

    def forward(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of video and action, and the reconstruction.

        Args:
            latents: (B, T, C, H, W), generated, without the conditioning latent.
            actions: (B, T, M, A) in environment units; chunk t caused latent t.

        Returns:
            z_video (B, T, D), z_action (B, T, D), reconstruction (B, T, M, A), normalised.
        """
        z_action = self.action_adapter(self.normalise(actions))
        return self.video_adapter(latents), z_action, self.action_decoder(z_action)

    def save_pretrained(self, directory: Path) -> None:
        write_json(directory / "config.json", self.config)
        save_file(self.state_dict(), directory / "model.safetensors")

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Bridge:
        """Open a saved bridge. Raises `BadInput` when a file is missing, damaged or of other sizes."""
        bridge = cls(**read_json(Path(directory) / "config.json"))
        load_strictly(bridge, Path(directory) / "model.safetensors")
        return bridge.eval().requires_grad_(False)


def load_strictly(module: nn.Module, path: Path) -> None:
    """Load safetensors into a module, every key and no other. Raises `BadInput`."""
    tensors = {key: torch.from_numpy(value) for key, value in read_tensors(path).items()}
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise BadInput(
            path, "", str(error), "the tensors of its config.json", "use a directory written as a whole"
        ) from error
