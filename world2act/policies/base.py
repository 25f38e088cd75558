"""The Policy contract: what the simulator loop, post-training and a server need from a policy.

A policy family NAME is the module `world2act.policies.NAME`, or the module that an installed package declares as the
entry point NAME of the group `world2act.policies`. It provides, in its module or in submodules of the names in the left
column:

    (itself)   SUMMARY           the family in one line, for the model card
    params     Parameters        the class of `base_policy.NAME` in params.yaml, a `Section`
    policy     from_pretrained   opens a saved policy; the directory's config.json names the family
    objective  make_objective    how the base_policy stage trains one: `world2act.policies.imitation.Trainable`

A family that is only opened, and never trained, needs `from_pretrained` alone. Submodules keep the reading of
parameters quick, since `params` is then imported without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.members import load_member
from world2act.core.storage import read_json
from world2act.sims.base import Observation

FAMILIES = ("world2act.policies", "world2act.post_training")
"""The rooms whose members open saved policies."""


ROOM = "world2act.policies"
FAMILIES = (ROOM, "world2act.post_training")
"""The rooms whose members open saved policies."""


@runtime_checkable
class Policy(Protocol):
    """Observations in, action chunks out. A policy keeps no state between calls.

    Attributes:
        cameras: the cameras whose images it reads, and the side of each image in pixels; images are square.
        proprio_dim: how many numbers of proprioception it reads; 0 if it reads none.
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


@runtime_checkable
class PolicyLoader(Protocol):
    """The part `policy` of a family."""

    def from_pretrained(self, directory: str | Path) -> Policy:
        """Open a saved policy."""


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
    return cast(PolicyLoader, module).from_pretrained(directory)


def family_summary(family: str) -> str:
    """The family in one line. Raises `BadInput` where there is no such family, or it has no summary."""
    return str(load_member(family, "", "SUMMARY", [ROOM], "params.yaml", "base_policy.family").SUMMARY)
