"""The sections and blocks that several stages share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from world2act.core.params.section import Count, Positive, Section


class Base(Section):
    """seed: of everything random. ranks: training processes. workers: simulator processes."""

    seed: Annotated[int, Field(ge=0)]
    ranks: Count
    workers: Count


class Training(Section):
    """What every trained part tells the one training loop. `batch_size` counts all ranks and all of the `accumulation`
    micro-batches that one optimiser step sums up."""

    steps: Count
    batch_size: Count
    accumulation: Count
    learning_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: tuple[float, float] = Field(strict=False)
    clip_norm: Positive
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    checkpoint_every: Count
    deepspeed: str


class Lora(Section):
    """Low-rank adapters (peft): W + alpha / rank · B A for every layer whose name ends in one of `targets`."""

    rank: Count
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: list[str] = Field(min_length=1)


class Sampler(Section):
    """steps: passes of the network over a clip. order: 1 for Euler, 2 for the released model's own second-order
    multistep. guidance: g in c + g (c - u); 0 leaves the unconditional pass out."""

    steps: Count
    order: Literal[1, 2]
    guidance: Annotated[float, Field(ge=0)]
