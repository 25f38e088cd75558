"""The Policy contract: what the simulator loop, post-training and a server need of a policy.

A policy family is one module or package `world2act.policies.<family>` that defines
`from_pretrained(directory) -> Policy`; the family stands in the directory's `config.json`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from world2act.errors import BadInput
from world2act.sims.base import Observation
from world2act.storage import read_json


@runtime_checkable
class Policy(Protocol):
    """Observations in, action chunks out. It holds no state between calls."""

    chunk_length: int
    action_dim: int

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        """Predict one action chunk for each observation.

        Args:
            observations: B observations.
            seeds: B seeds of the sampling noise; the same seed and observation give the same chunk,
                whatever else is in the batch.

        Returns:
            float32 (B, chunk_length, action_dim), in the environment's units, clipped to [-1, 1].
        """


def noise_seed(*parts: int) -> int:
    """A seed of sampling noise from what tells a prediction apart: the episode's seed, the chunk's number, ..."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def load_policy(directory: str | Path) -> Policy:
    """Open a saved policy by the family that its config.json names.

    Raises:
        BadInput: the directory is missing, or names a family that does not exist.
    """
    config_path = Path(directory) / "config.json"
    family = read_json(config_path).get("family")
    if not isinstance(family, str) or not re.fullmatch(r"[a-z0-9_]+", family):
        raise BadInput(
            config_path, "family", family, "the name of a policy family", "use a directory that world2act wrote"
        )
    try:
        module = importlib.import_module(f"world2act.policies.{family}")
    except ModuleNotFoundError as error:
        if error.name != f"world2act.policies.{family}":
            raise
        raise BadInput(
            config_path, "family", family, "a module of world2act/policies", "install the package that has it"
        ) from error
    return module.from_pretrained(directory)
