"""What differs between trained parts: a batch → a loss and metrics. Everything else is `world2act.training.loop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Place:
    """Where a batch is drawn: this optimiser step, this rank of that many, on this device.

    `generator` is a CPU generator seeded from (base seed, step, rank), so that a resumed run draws what the
    killed one would have drawn. Every random number of a batch comes from it.
    """

    step: int
    rank: int
    ranks: int
    batch_size: int
    device: torch.device
    generator: torch.Generator


class Objective(Protocol[Batch]):
    """One trained part.

    Attributes:
        model: the trainable module; frozen parts stay outside of it.
    """

    model: nn.Module

    def batch(self, place: Place) -> Batch:
        """Draw this rank's `place.batch_size` samples on `place.device`. Depends on nothing but `place`
        (and, where the batch is a rollout, on the model's weights)."""

    def loss(self, model: nn.Module, batch: Batch, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The scalar loss of a batch, and scalar metrics to log. `model` is `self.model` as the trainer wraps it:
        call it through its `forward`."""


def epoch_indices(count: int, place: Place, seed: int) -> Tensor:
    """This rank's sample indices of this step: every sample once an epoch, in an order that depends on the seed.

    Args:
        count: number of samples in the set, at least one.

    Returns:
        int64 (place.batch_size,), disjoint between the ranks of a step while `count` allows it.
    """
    total = place.batch_size * place.ranks
    first = place.step * total + place.rank * place.batch_size
    positions = torch.arange(first, first + place.batch_size)
    epochs = positions // count
    chosen = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        here = epochs == epoch
        chosen[here] = order[positions[here] % count]
    return chosen
