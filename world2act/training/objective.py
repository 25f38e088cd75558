"""What differs between trained parts: a batch → a loss and metrics. Everything else is `world2act.training.loop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from world2act.core.seeds import derive

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Place:
    """Where a batch is drawn: some samples of one optimiser step, on this rank of that many, on this device.

    The samples of a step are numbered 0..total-1, and each has a seed of its own, from (base seed, step, number). What
    is random about a sample is drawn from its seed, so that a step sees the same samples whatever the number of ranks
    and micro-batches, and a resumed run those that the killed one would have seen.

    Attributes:
        samples: the numbers of this batch's samples.
        total: samples of the whole step.
        seeds: one a sample of this batch.
    """

    step: int
    rank: int
    ranks: int
    samples: range
    total: int
    seeds: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(
        cls,
        seed: int,
        step: int,
        total: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        part: int = 0,
        parts: int = 1,
        device: torch.device | str = "cpu",
    ) -> Self:
        """A rank's `part` of `parts` micro-batches of a step of `total` samples, which ranks * parts divides."""
        size = total // (ranks * parts)
        first = (part * ranks + rank) * size
        samples = range(first, first + size)
        seeds = tuple(derive(seed, "sample", step, sample) for sample in samples)
        return cls(step, rank, ranks, samples, total, seeds, torch.device(device))

    @property
    def batch_size(self) -> int:
        return len(self.samples)

    def generators(self) -> list[torch.Generator]:
        """A CPU generator for each sample, at the beginning of what its seed gives."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


class Objective(Protocol[Batch]):
    """One trained part.

    Attributes:
        model: the trained module; parameters that ask for no gradient stay as they are.
    """

    @property
    def model(self) -> nn.Module: ...

    def batch(self, place: Place) -> Batch:
        """Draw the `place.batch_size` samples on `place.device`. Depends on nothing but `place`
        (and, where the batch is a rollout, on the model's weights)."""

    def loss(self, model: nn.Module, batch: Batch, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The scalar loss of a batch, and scalar metrics to log. `model` is `self.model` as the trainer wraps it:
        call it through its `forward`. Over ranks and micro-batches the mean of the losses is minimised."""


def draw(generators: list[torch.Generator], kind: str, *shape: int) -> Tensor:
    """Standard normal ("randn") or uniform ("rand") numbers, a generator a sample: (len(generators), *shape)."""
    function = getattr(torch, kind)
    return torch.stack([function(shape, generator=generator) for generator in generators])


def epoch_indices(count: int, place: Place, seed: int) -> Tensor:
    """The sample indices of a batch: every sample once an epoch, in an order that depends on the seed.

    Args:
        count: number of samples in the set, at least one.

    Returns:
        int64 (place.batch_size,), disjoint between the batches of a step while `count` allows it.
    """
    positions = torch.tensor(place.samples) + place.step * place.total
    epochs = positions // count
    chosen = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "epoch", epoch)))
        here = epochs == epoch
        chosen[here] = order[positions[here] % count]
    return chosen
