"""A residual policy as a directory: `base/` (the whole base policy), `config.json`, `model.safetensors`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from world2act.bridge.adapters import Bridge, load_strictly
from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.storage import read_json, sha256, write_json
from world2act.policies.base import Policy, load_policy
from world2act.post_training.residual.model import ResidualModel
from world2act.sims.base import Observation


class ResidualPolicy:
    """The Policy contract over a frozen base policy of any family: only its action chunk is used.

    Args:
        proprio_mean, proprio_std: (P,), measured on the labelled training episodes.
    """

    def __init__(
        self, base: Policy, model: ResidualModel, camera: str, proprio_mean: Tensor, proprio_std: Tensor
    ) -> None:
        self.base, self.model, self.camera = base, model, camera
        self.chunk_length = FRAMES_PER_LATENT
        self.action_dim: int = model.bridge.config["action_dim"]
        self.cameras = {**base.cameras, camera: model.image_size}
        self.proprio_dim = len(proprio_mean)
        self._proprio_mean, self._proprio_std = proprio_mean, proprio_std
        if base.chunk_length < self.chunk_length:
            raise BadInput(
                "the base policy",
                "chunk_length",
                base.chunk_length,
                f"at least {self.chunk_length}, the frames of one latent",
                "train the base policy on longer chunks",
            )
        seen = (base.cameras.get(camera, model.image_size), base.proprio_dim or self.proprio_dim)
        if seen != (model.image_size, self.proprio_dim):
            raise BadInput(
                "the base policy",
                f"{camera}, proprioception",
                f"{seen[0]} pixels, {seen[1]} numbers",
                f"{model.image_size} pixels, {self.proprio_dim} numbers, as the residual reads them",
                "use a base policy for the same observations",
            )

    def base_chunks(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        """The base policy's first `chunk_length` actions, float32 (B, M, A)."""
        return self.base.predict(observations, seeds)[:, : self.chunk_length]

    def inputs(self, observations: Sequence[Observation], device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised proprioception (B, P) and the image, uint8 (B, H, W, 3)."""
        proprio = torch.from_numpy(np.stack([o.proprio for o in observations]))
        image = torch.from_numpy(np.stack([o.images[self.camera] for o in observations]))
        return ((proprio - self._proprio_mean) / self._proprio_std).to(device), image.to(device)

    @torch.inference_mode()
    def correct(self, observations: Sequence[Observation], base_chunks: np.ndarray) -> np.ndarray:
        """Base chunks plus residual, float32 (B, M, A), clipped to [-1, 1]."""
        device = next(self.model.parameters()).device
        proprio, image = self.inputs(observations, device)
        actions = torch.from_numpy(base_chunks).to(device)
        return (actions + self.model(actions, proprio, image)).clamp(-1, 1).cpu().numpy()

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        """See `world2act.policies.base.Policy`."""
        return self.correct(observations, self.base_chunks(observations, seeds))

    def save_pretrained(self, directory: Path, base_directory: Path) -> None:
        """Write the residual, and a copy of the base policy, so that the directory needs nothing else."""
        shutil.copytree(base_directory, directory / "base")
        model = self.model
        write_json(
            directory / "config.json",
            {
                "family": "residual",
                "bridge": model.bridge.config,
                "camera": self.camera,
                "proprio_mean": self._proprio_mean.tolist(),
                "proprio_std": self._proprio_std.tolist(),
                "image_size": model.image_size,
                "layers": len(model.attention.layers),
                "heads": model.heads,
                "chunk_length": self.chunk_length,
                "action_dim": self.action_dim,
                "base_sha256": sha256(base_directory),
            },
        )
        save_file(model.state_dict(), directory / "model.safetensors")


def from_pretrained(directory: str | Path) -> ResidualPolicy:
    """Open a residual policy and the base policy inside it, on the GPU where there is one.

    Raises:
        BadInput: a file is missing or damaged, or the base is not the one that the residual was trained over.
    """
    root = Path(directory)
    config = read_json(root / "config.json")
    found = sha256(root / "base")
    if found != config["base_sha256"]:
        raise BadInput(
            root / "base",
            "sha256",
            found,
            config["base_sha256"],
            "get the whole policy again: `dvc checkout` or `dvc pull`",
        )
    mean, std = torch.tensor(config["proprio_mean"]), torch.tensor(config["proprio_std"])
    model = ResidualModel(
        Bridge(**config["bridge"]),
        proprio_dim=len(mean),
        image_size=config["image_size"],
        layers=config["layers"],
        heads=config["heads"],
    )
    load_strictly(model, root / "model.safetensors")
    return ResidualPolicy(load_policy(root / "base"), model.freeze().to(best_device()), config["camera"], mean, std)
