"""Training a base policy by imitation: what a family provides, and the one training loop over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor

from world2act.core.members import load_member
from world2act.core.params import Base, BasePolicy
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.base import ROOM
from world2act.training.dry_run import must_train
from world2act.training.loop import Trained, train
from world2act.training.objective import Objective


class Imitation(Objective[Any], Protocol):
    """An objective over labelled frames whose model, once trained, is a policy.

    A model without a parameter that requires a gradient is saved unchanged.

    Attributes:
        reads: concatenated sha256 digests of what else it read, such as released weights; "" if there is nothing.
    """

    reads: str

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write what the family's `from_pretrained` opens into an existing directory: config.json with `family`,
        `chunk_length` and `action_dim`; model.safetensors with `weights`; statistics.json."""


class Trainable(Protocol):
    """The part `objective` of a family."""

    def make_objective(self, params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> Imitation:
        """The objective over the frames of the training split; everything it measures comes from them alone.

        Args:
            params: `params.block(Parameters)` is the block of the family.
        """


def load_trainable(family: str) -> Trainable:
    """The part of a family that trains. Raises `BadInput` where there is no such family, or it cannot be trained."""
    module = load_member(family, "objective", "make_objective", [ROOM], "params.yaml", "base_policy.family")
    return cast(Trainable, module)


def make_objective(params: BasePolicy, dataset: EpisodeDataset, seed: int) -> tuple[Imitation, ChunkDataset]:
    """The objective of `params.family`, and the frames that it is trained on.

    Raises:
        BadInput: there is no such family, or it cannot be trained.
    """
    family = load_trainable(params.family)
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    return family.make_objective(params, dataset, chunks, seed), chunks


def train_policy(params: BasePolicy, objective: Imitation, base: Base, identity: str | None = None) -> Trained:
    """Run the one training loop as params say; a model without trainable parameters is returned unchanged.

    Args:
        identity: of the run, as `world2act.training.loop.train` takes it.
    """
    if not any(parameter.requires_grad for parameter in objective.model.parameters()):
        must_train("none", f"base_policy.{params.family}.tuning")
        weights = objective.model.state_dict()
        return Trained(weights, weights)
    return train(objective, params.training, name="base_policy", base=base, identity=identity)
