"""The block `base_policy.gr00t` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.params.base import Lora
from world2act.core.params.section import Count, Section, Share


class Sizes(Section):
    """Widths and numbers of layers of a network whose weights are drawn from the seed."""

    vision_dim: Count
    vision_layers: Count
    vision_patch: Count
    language_dim: Count
    language_layers: Count
    action_head_dim: Count
    action_head_layers: Count


class Parameters(Section):
    """`base_policy.gr00t`.

    Attributes:
        weights: NVIDIA's folder, or NAME@COMMIT on the hub, whose config.json has every size; null for a network of
            `sizes`, drawn from the seed.
        tokenizer: the folder of the weights' tokenizer, if it is not in the folder of the weights.
        parameters: how many the network must have, counted as NVIDIA does.
        tuning: what is trained: everything; the projector and the diffusion transformer with the last
            `top_language_layers` layers of the language model; low-rank adapters and the projector; or nothing.
        embodiment: selects the set of encoders and decoder, and the statistics: those of the weights, or, where the
            weights have none for it, those of the training split.
        views, state, action: the weights' name of a view or part → our camera, our names of proprioception or actions;
            null where the names agree.
        state_dropout: the share of training samples whose state is hidden; null for the value that the weights were
            trained with, which is 0 where they are drawn.
        sampler_steps: Euler steps from noise to actions.
        noise_draws: noisy chunks per encoded observation.
    """

    weights: str | None
    tokenizer: str | None
    parameters: Count | None
    tuning: Literal["full", "projector_dit", "lora", "none"]
    top_language_layers: Annotated[int, Field(ge=0)]
    lora: Lora
    gradient_checkpointing: bool
    embodiment: str
    views: dict[str, str] | None
    state: dict[str, list[str]] | None
    action: dict[str, list[str]] | None
    sizes: Sizes | None
    state_dropout: Share | None
    sampler_steps: Count
    noise_draws: Count

    @model_validator(mode="after")
    def _agree(self) -> Parameters:
        if (self.weights is None) == (self.sizes is None):
            found = "neither" if self.weights is None else "both"
            raise PydanticCustomError("unfit", "weights, or sizes and weights: null", {"found": found})
        if self.tuning == "none" and self.weights is None:
            found = "none, for a network that is drawn from the seed"
            raise PydanticCustomError("unfit", "weights, or another tuning", {"found": found})
        if self.top_language_layers and self.tuning != "projector_dit":
            found = f"{self.top_language_layers} top_language_layers with tuning {self.tuning}"
            raise PydanticCustomError("unfit", "0, or tuning: projector_dit", {"found": found})
        return self
