"""The sections `world_model`, `judge` and `rollouts` of params.yaml: learning, judging, imagining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from world2act.core.params.base import Lora, Sampler, Training
from world2act.core.params.section import Count, Section, Share


class WorldModel(Section):
    """weights: null for a network drawn from the seed. parameters: how many it must have. guardrail: over what imported
    weights imagine, wherever people see it. patch_size: latent pixels a side of a token. target: what is denoised, the
    latents or their change from the first. prediction: what the network's output means, the velocity noise - x0 or the
    clean latents x0; weights keep the meaning that they were trained with."""

    weights: str | None
    parameters: Count | None
    guardrail: Literal["cosmos", "none"]
    heads: Count
    head_dim: Count
    layers: Count
    adaln_lora_dim: Count
    patch_size: Count
    tuning: Literal["full", "lora", "none"]
    lora: Lora
    gradient_checkpointing: bool
    max_latents: Count
    target: Literal["latent", "change"]
    prediction: Literal["velocity", "clean"]
    conditioning_latents: list[Count] = Field(min_length=1)
    text_dropout: Share
    high_sigma_share: Share
    training: Training


class Judge(Section):
    """How the world model is measured on held-out clips. samples: videos imagined for each clip. pictures: clips that
    are decoded and compared frame by frame. lpips: a file written by `world2act convert-lpips`, or null."""

    sampler: Sampler
    samples: Count
    pictures: Count
    lpips: str | None


class Rollouts(Section):
    """feedback: what a skill hands to the next one, its last frames (decoded and encoded again) or its last latents.
    conditioning_frames: how many of them; the first skill of a rollout starts from the one frame that there is."""

    sampler: Sampler
    feedback: Literal["frame", "latent"]
    conditioning_frames: Literal[1, 5]
    batch_size: Count
