"""The Policy contract: what the simulator loop, post-training and a server need of a policy.

A policy family is one module or package, here or in another distribution, that defines
`from_pretrained(directory) -> Policy`; the family stands in the directory's `config.json`. One that the base_policy
stage can train also defines what `world2act.policies.imitation` asks for.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.members import load_member
from world2act.core.storage import read_json
from world2act.sims.base import Observation

FAMILIES = ("world2act.policies", "world2act.post_training")
"""The rooms whose members open saved policies."""


@runtime_checkable
class Policy(Protocol):
    """Observations in, action chunks out. It holds no state between calls.

    Attributes:
        cameras: the images that it reads, by camera, and their pixels a side; all are square.
        proprio_dim: how many numbers of proprioception it reads; 0 where it reads none.
    """

    chunk_length: int
    action_dim: int
    cameras: Mapping[str, int]
    proprio_dim: int

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        """Predict one action chunk for each observation.

        Args:
            observations: B observations.
            seeds: B seeds of the sampling noise; the same seed and observation give the same chunk,
                whatever else is in the batch.

        Returns:
            float32 (B, chunk_length, action_dim), in the environment's units, clipped to [-1, 1].
        """


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
    module = load_member(family, "policy", "from_pretrained", FAMILIES, config_path, "family")
    policy: Policy = module.from_pretrained(directory)
    return policy


def family_module(family: str, where: str | Path, key: str) -> ModuleType:
    """The module of a family: `world2act.policies.<family>`, or what an installed package offers under that name as an
    entry point of the group `world2act.policies`.

    Raises:
        BadInput: there is neither; `where` and `key` say who asked.
    """
    module = None
    if importlib.util.find_spec(f"world2act.policies.{family}"):
        module = importlib.import_module(f"world2act.policies.{family}")
    elif found := entry_points(group="world2act.policies", name=family):
        module = found[family].load()
    if not hasattr(module, "from_pretrained"):
        remedy = "correct the name, or install the package that has it"
        raise BadInput(where, key, family, "a module of world2act/policies, or one that a package adds", remedy)
    return module
