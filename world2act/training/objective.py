"""What differs between trained parts: how a batch becomes a loss and metrics. `world2act.training.loop` is the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from world2act.core.seeds import derive

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class BatchPosition:
    """The position of a batch in training: which samples of which optimiser step, on which rank and device.

    The samples of a step are numbered from 0 to total - 1, and each has its own seed, derived from (base seed, step,
    number). Everything random about a sample is drawn from that seed. A step therefore sees the same samples for any
    number of ranks and micro-batches, and a resumed run sees the samples that the killed run would have seen.

    Attributes:
        samples: the numbers of the samples in this batch.
        total: the number of samples in the whole step.
        seeds: one seed per sample of this batch.
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
        """Micro-batch `part` of `parts` on a rank, in a step of `total` samples; ranks * parts must divide `total`."""
        size = total // (ranks * parts)
        first = (part * ranks + rank) * size
        samples = range(first, first + size)
        seeds = tuple(derive(seed, "sample", step, sample) for sample in samples)
        return cls(step, rank, ranks, samples, total, seeds, torch.device(device))

    @property
    def batch_size(self) -> int:
        return len(self.samples)

    def generators(self) -> list[torch.Generator]:
        """One CPU generator per sample, seeded with the sample's seed."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


class Objective(Protocol[Batch]):
    """One trained part.

    Attributes:
        model: the trained module; parameters that require no gradient are not changed.
    """

    @property
    def model(self) -> nn.Module: ...

    def batch(self, position: BatchPosition) -> Batch:
        """Draw the `position.batch_size` samples on `position.device`. Depends on nothing but `position`
        (and, where the batch is a rollout, on the model's weights)."""

    def loss(self, model: nn.Module, batch: Batch, position: BatchPosition) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The scalar loss of a batch, and scalar metrics to log. `model` is `self.model` as the trainer wraps it:
        call it through its `forward`. Over ranks and micro-batches the mean of the losses is minimised."""


def draw(generators: list[torch.Generator], kind: str, *shape: int) -> Tensor:
    """Standard normal ("randn") or uniform ("rand") numbers, one generator per sample: (len(generators), *shape)."""
    function = getattr(torch, kind)
    return torch.stack([function(shape, generator=generator) for generator in generators])


def epoch_indices(count: int, position: BatchPosition, seed: int) -> Tensor:
    """The sample indices of a batch: every sample once per epoch, in an order that depends on the seed.

    Args:
        count: number of samples in the set, at least one.

    Returns:
        int64 (position.batch_size,), disjoint between the batches of a step while `count` allows it.
    """
    numbers = torch.tensor(position.samples) + position.step * position.total
    epochs = numbers // count
    chosen = torch.empty_like(numbers)
    for epoch in epochs.unique().tolist():
        order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "epoch", epoch)))
        here = epochs == epoch
        chosen[here] = order[numbers[here] % count]
    return chosen
