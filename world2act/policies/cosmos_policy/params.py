"""The block `base_policy.cosmos_policy` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.params.base import Lora
from world2act.core.params.section import Count, Section, Share


class Roles(Section):
    """Shares of the samples in which the actions, what follows from them, or only its value are to be predicted."""

    policy: Share
    world_model: Share
    value: Share

    @model_validator(mode="after")
    def _add_up(self) -> Roles:
        if abs(total := self.policy + self.world_model + self.value - 1) > 1e-6:
            raise PydanticCustomError("unfit", "shares that add up to 1", {"found": f"{total + 1:g}"})
        return self


class Parameters(Section):
    """`base_policy.cosmos_policy`. The keys from `weights` to `prediction` mean what they mean in world_model.

    Attributes:
        weights: may also be the folder of a Cosmos Policy, which brings its VAE, prompts and statistics.
        tuning: none saves such a policy unchanged.
        tokenizer: for all other weights, the folder of vae/ and of the text encoder.
        interface: how the robot's cameras, proprioception and actions become the network's: unchanged, or as NVIDIA's
            policies for LIBERO and RoboCasa read them.
        discount: of the value, per control step.
        noise_draws: noisy copies of each encoded sample.
        sampler_steps: passes of the network per chunk.
    """

    weights: str | None
    parameters: Count | None
    tuning: Literal["full", "lora", "none"]
    lora: Lora
    gradient_checkpointing: bool
    heads: Count
    head_dim: Count
    layers: Count
    adaln_lora_dim: Count
    patch_size: Count
    prediction: Literal["velocity", "clean"]
    tokenizer: str
    text_length: Count
    interface: Literal["dataset", "libero", "robocasa"]
    roles: Roles
    discount: Annotated[float, Field(gt=0, le=1)]
    noise_draws: Count
    sampler_steps: Count
