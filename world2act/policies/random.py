"""The floor that every policy is compared with: actions drawn uniformly from the box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from world2act.core.storage import read_json
from world2act.sims.base import Observation

SUMMARY = "independent uniform actions, the floor for every policy"


class RandomPolicy:
    """Independent uniform actions in [-1, 1]; see `world2act.policies.base.Policy`."""

    def __init__(self, chunk_length: int, action_dim: int) -> None:
        self.chunk_length, self.action_dim = chunk_length, action_dim
        self.cameras: Mapping[str, int] = {}
        self.proprio_dim = 0

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        shape = (self.chunk_length, self.action_dim)
        return np.stack([np.random.default_rng(seed).uniform(-1, 1, shape) for seed in seeds]).astype(np.float32)


def from_pretrained(directory: str | Path) -> RandomPolicy:
    """Open a directory whose config.json holds `family: random`, `chunk_length` and `action_dim`."""
    config = read_json(Path(directory) / "config.json")
    return RandomPolicy(config["chunk_length"], config["action_dim"])
