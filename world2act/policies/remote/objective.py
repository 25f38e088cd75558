"""`base_policy: {family: remote, remote: {...}}` → the folder of a policy that is served elsewhere and not trained.

    remote: {server: openpi, address: "ws://host:8000", revision: d41d8cd9..., timeout_s: 30.0}

The block becomes the policy's config.json (`configuration.py`), completed from the demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy
from world2act.core.storage import write_json
from world2act.data.features import IMAGES, element_names
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.dataset import image_side
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.remote.configuration import RemoteConfig
from world2act.policies.remote.params import Parameters

_WHERE, _KEY = "params.yaml", "base_policy.remote"


class RemoteObjective:
    """The objective of a family that trains nothing: a model without weights."""

    reads = ""

    def __init__(self, config: RemoteConfig) -> None:
        self.model = nn.Module()
        self._config = config

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """See `world2act.policies.imitation.Imitation`."""
        write_json(directory / "config.json", self._config.model_dump(mode="json", exclude={"protocol"}))


def make_objective(params: BasePolicy, dataset: EpisodeDataset, chunks: object, seed: int) -> RemoteObjective:
    """See `world2act.policies.imitation.Trainable`. Raises: `BadInput`."""
    block = params.block(Parameters)
    proprio_dim, action_dim = (len(element_names(dataset.features, name)) for name in (PROPRIO, ACTION))
    size = image_side(dataset)
    served = {
        "cameras": {camera: {"key": IMAGES + camera, "size": size} for camera in dataset.cameras},
        "state": {PROPRIO: [0, proprio_dim]},
        "instruction": "task",
        "actions": {"actions": [0, action_dim]},
        "seed": "seed",
    }
    values = {
        **(served if block.server == "openpi" else {}),
        **block.model_dump(exclude_unset=True),
        "family": "remote",
        "chunk_length": params.chunk_length,
        "proprio_dim": proprio_dim,
        "action_dim": action_dim,
    }
    config = RemoteConfig.parse(values, _WHERE, _KEY)
    sizes = {camera: seen.size for camera, seen in config.cameras.items()}
    if unknown := sorted(sizes.items() - dict.fromkeys(dataset.cameras, size).items()):
        camera, found = unknown[0]
        expected = f"cameras of the demonstrations, {list(dataset.cameras)}, {size} pixels per side"
        raise BadInput(_WHERE, f"{_KEY}.cameras.{camera}", f"{found} pixels", expected, "name what a policy here sees")
    return RemoteObjective(config)
