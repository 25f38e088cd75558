"""What a policy family brings to the base_policy stage: an objective for the one training loop, and how it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from world2act.core.errors import BadInput
from world2act.core.params import Base, BasePolicy
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.base import Policy, family_module
from world2act.training.dry_run import must_train
from world2act.training.loop import Trained, train
from world2act.training.objective import Objective


class Imitation(Objective[Any], Protocol):
    """An objective over labelled frames whose model, once trained, is a policy.

    A model of which nothing asks for a gradient is saved as it is.

    Attributes:
        reads: a fingerprint of what it read besides the demonstrations, "" where there is nothing.
    """

    reads: str

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write what the family's `from_pretrained` opens into an existing directory: config.json with `family`,
        `chunk_length` and `action_dim`; model.safetensors with `weights`; statistics.json."""


class Family(Protocol):
    """The module of a family. Its parameters are `params.<family>`, or `params.options` where it is a package's own."""

    def make_objective(self, params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> Imitation:
        """The objective over the frames of the training split; everything it measures comes from them alone."""

    def from_pretrained(self, directory: str | Path) -> Policy:
        """Open a policy that `Imitation.save_policy` wrote."""


def make_objective(params: BasePolicy, dataset: EpisodeDataset, seed: int) -> tuple[Imitation, ChunkDataset]:
    """The objective of `params.family`, and the frames that it trains on.

    Raises:
        BadInput: there is no such family, or it cannot be trained.
    """
    module = family_module(params.family, "params.yaml", "base_policy.family")
    if not hasattr(module, "make_objective"):
        remedy = "name one that is trained, such as gr00t, behaviour_cloning or cosmos_policy"
        raise BadInput("params.yaml", "base_policy.family", params.family, "a family that learns by imitation", remedy)
    chunks = ChunkDataset.load(dataset, dataset.splits["train"])
    return module.make_objective(params, dataset, chunks, seed), chunks


def train_policy(params: BasePolicy, objective: Imitation, base: Base, identity: str | None = None) -> Trained:
    """Run the one training loop as params say; a model of which nothing asks for a gradient is returned as it is.

    Args:
        identity: of the run, as `world2act.training.loop.train` takes it.
    """
    if not any(parameter.requires_grad for parameter in objective.model.parameters()):
        must_train("none", f"base_policy.{params.family}.tuning")
        weights = objective.model.state_dict()
        return Trained(weights, weights)
    return train(objective, params.training, name="base_policy", base=base, identity=identity)
