"""Policies that the pipeline's environment saved (tests/helpers/lerobot_policies.py), in WORLD2ACT_TEST_POLICIES."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.import_utils import register_third_party_plugins

from world2act.sims.base import Observation

FAMILIES = ("gr00t", "behaviour_cloning", "cosmos_policy", "residual")
SEED = 5
torch.set_num_threads(1)
register_third_party_plugins()


@dataclass(frozen=True)
class Saved:
    """A policy's folder, observations, and the chunks (B, M, A) that the pipeline's environment predicted for them."""

    folder: Path
    observations: list[Observation]
    actions: np.ndarray

    @property
    def lerobot(self) -> Path:
        """What `--policy.path` names."""
        return self.folder / "lerobot"

    def batch(self) -> dict[str, Any]:
        """The observations as LeRobot's environments and data sets give them."""
        cameras = self.observations[0].images
        images = {camera: np.stack([seen.images[camera] for seen in self.observations]) for camera in cameras}
        floats = {
            f"observation.images.{camera}": torch.from_numpy(value).permute(0, 3, 1, 2).float() / 255
            for camera, value in images.items()
        }
        state = torch.from_numpy(np.stack([seen.proprio for seen in self.observations]))
        return {**floats, "observation.state": state, "task": [seen.instruction for seen in self.observations]}


def saved(family: str) -> Saved:
    root = Path(os.environ["WORLD2ACT_TEST_POLICIES"]) / family
    with np.load(root / "expected.npz") as arrays:
        cameras = [key.removeprefix("images.") for key in arrays if key.startswith("images.")]
        observations = [
            Observation({c: arrays[f"images.{c}"][row] for c in cameras}, state, str(task), np.zeros(0, np.float32))
            for row, (state, task) in enumerate(zip(arrays["state"], arrays["task"], strict=True))
        ]
        return Saved(root / "policy", observations, arrays["actions"])


@pytest.fixture(params=FAMILIES)
def each(request: pytest.FixtureRequest) -> Saved:
    return saved(request.param)


@pytest.fixture
def plain() -> Saved:
    return saved("behaviour_cloning")


def open_policy(folder: Path, *overrides: str) -> PreTrainedPolicy:
    """As LeRobot's commands do it: the configuration in `lerobot`, the class by its name, the policy."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import get_policy_class

    arguments = ["--device=cpu", f"--seed={SEED}", *overrides]
    config = PreTrainedConfig.from_pretrained(folder / "lerobot", cli_overrides=arguments)
    config.pretrained_path = folder / "lerobot"
    return get_policy_class(config.type).from_pretrained(config.pretrained_path, config=config)
