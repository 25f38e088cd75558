"""`base_policy: {family: remote, options: {...}}` → the folder of a policy that is served elsewhere, untrained.

    options: {server: openpi, address: "ws://host:8000", timeout_s: 30.0}

The other options are the keys of config.json (`configuration.py`). For openpi's protocol they are, by default, those
that `world2act serve` reads of a policy of these demonstrations; GR00T's server has those of its checkpoint, all to be
named: cameras, state, instruction, actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy
from world2act.core.storage import write_json
from world2act.data.features import IMAGES
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.dataset import image_side
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.remote.configuration import RemoteConfig

_WHERE, _KEY = "params.yaml", "base_policy.options"


class RemoteObjective:
    """What the base_policy stage asks of a family of which nothing is trained: a model without weights."""

    reads = ""

    def __init__(self, config: RemoteConfig) -> None:
        self.model = nn.Module()
        self._config = config

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """See `world2act.policies.imitation.Imitation`."""
        write_json(directory / "config.json", self._config.model_dump(mode="json", exclude={"protocol"}))


def make_objective(params: BasePolicy, dataset: EpisodeDataset, chunks: object, seed: int) -> RemoteObjective:
    """See `world2act.policies.imitation.Family`. Raises: `BadInput`."""
    options = params.options or {}
    proprio_dim, action_dim = (len(dataset.features[name]["names"]) for name in (PROPRIO, ACTION))
    size = image_side(dataset)
    fixed = {
        "family": "remote",
        "chunk_length": params.chunk_length,
        "proprio_dim": proprio_dim,
        "action_dim": action_dim,
    }
    if twice := sorted(fixed.keys() & options.keys()):
        expected = "nothing: base_policy and the demonstrations say it"
        raise BadInput(_WHERE, f"{_KEY}.{twice[0]}", options[twice[0]], expected, "leave it out")
    served = {
        "cameras": {camera: {"key": IMAGES + camera, "size": size} for camera in dataset.cameras},
        "state": {PROPRIO: [0, proprio_dim]},
        "instruction": "task",
        "actions": {"actions": [0, action_dim]},
        "seed": "seed",
    }
    common = served if options.get("server") == "openpi" else {}
    config = RemoteConfig.parse({**common, **options, **fixed}, _WHERE, _KEY)
    sizes = {camera: seen.size for camera, seen in config.cameras.items()}
    if unknown := sorted(sizes.items() - dict.fromkeys(dataset.cameras, size).items()):
        camera, found = unknown[0]
        expected = f"cameras of the demonstrations, {list(dataset.cameras)}, {size} pixels a side"
        raise BadInput(_WHERE, f"{_KEY}.cameras.{camera}", f"{found} pixels", expected, "name what a policy here sees")
    return RemoteObjective(config)
