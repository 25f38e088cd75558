"""The section `base_policy` of params.yaml, with a block for each policy family."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params.base import Lora, Training
from world2act.core.params.section import Count, Section, Share


class Gr00tSizes(Section):
    """Widths and layers of a network that is drawn from the seed."""

    vision_dim: Count
    vision_layers: Count
    vision_patch: Count
    language_dim: Count
    language_layers: Count
    action_head_dim: Count
    action_head_layers: Count


class Gr00t(Section):
    """weights: NVIDIA's folder, or NAME@COMMIT on the hub, whose config.json has every size; or null for a network of
    `sizes`, drawn from the seed. tokenizer: the folder of theirs, where it is in none of their own. parameters: how
    many the network must have, counted as NVIDIA does. tuning: everything; projector and diffusion transformer with the
    `top_language_layers` last layers of the language model; low-rank adapters and the projector; or the weights as they
    are. embodiment: whose encoders and decoder, and whose statistics: those of the weights, or the training split's
    where they have none. views, state, action: what the weights name so → our camera, our proprioception or actions by
    name; null where the names agree. state_dropout: of the training samples, whose state is hidden; null for what the
    weights were made with, none where they are drawn. noise_draws: noisy chunks for each encoded observation.
    sampler_steps: Euler steps from noise to actions."""

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
    sizes: Gr00tSizes | None
    state_dropout: Share | None
    sampler_steps: Count
    noise_draws: Count

    @model_validator(mode="after")
    def _agree(self) -> Gr00t:
        if (self.weights is None) == (self.sizes is None):
            found = "neither" if self.weights is None else "both"
            raise PydanticCustomError("unfit", "weights, or sizes and weights: null", {"found": found})
        if self.tuning == "none" and self.weights is None:
            found = "none, of a network that is drawn"
            raise PydanticCustomError("unfit", "weights, or another tuning", {"found": found})
        if self.top_language_layers and self.tuning != "projector_dit":
            found = f"{self.top_language_layers} top_language_layers, of tuning {self.tuning}"
            raise PydanticCustomError("unfit", "0, or tuning: projector_dit", {"found": found})
        return self


class BehaviourCloning(Section):
    """channels: of the convolutions; the first two halve the picture. dim, layers, heads: of the transformer.
    proprio_dropout: share of the training samples without proprioception, which alone would tell much of the action and
    leave objects unseen. map_dropout: share of the map's numbers that a training sample does without."""

    channels: list[Count] = Field(min_length=1)
    dim: Count
    layers: Count
    heads: Count
    proprio_dropout: Annotated[float, Field(ge=0, lt=1)]
    map_dropout: Annotated[float, Field(ge=0, lt=1)]


class Roles(Section):
    """Shares of the samples in which the actions, what follows from them, and its value alone are to be predicted."""

    policy: Share
    world_model: Share
    value: Share

    @model_validator(mode="after")
    def _add_up(self) -> Roles:
        if abs(total := self.policy + self.world_model + self.value - 1) > 1e-6:
            raise PydanticCustomError("unfit", "shares that add up to 1", {"found": f"{total + 1:g}"})
        return self


class CosmosPolicy(Section):
    """weights to prediction: as in world_model; weights may also be a Cosmos Policy's own folder, which brings its VAE,
    prompts and statistics, and which tuning none saves as it is. tokenizer: the folder of vae/ and of the text encoder,
    for other weights. interface: what the network sees and makes of the robot: the dataset's cameras, proprioception
    and actions, or those of NVIDIA's policies for LIBERO and for RoboCasa. discount: of the value, a control step.
    noise_draws: noisy copies of each encoded sample.
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


def _fill_a_latent(chunk_length: int) -> int:
    """Post-training aligns each latent with the actions that caused it: a chunk must hold at least those."""
    if chunk_length < FRAMES_PER_LATENT:
        expected = f"at least {FRAMES_PER_LATENT} actions per chunk, those of one latent"
        raise PydanticCustomError("unfit", expected, {"found": str(chunk_length)})
    return chunk_length


class BasePolicy(Section):
    """family: a module of world2act/policies, or one that an installed package adds. A block a family; `options` is
    the block of an added one, which checks it itself.
    """

    family: str = Field(pattern=r"^[a-z0-9_]+$")
    chunk_length: Annotated[Count, AfterValidator(_fill_a_latent)]
    check_episodes_per_task: Count
    gr00t: Gr00t | None
    behaviour_cloning: BehaviourCloning | None
    cosmos_policy: CosmosPolicy | None
    options: dict[str, Any] | None
    training: Training

    @model_validator(mode="after")
    def _block_is_there(self) -> BasePolicy:
        if self.family in type(self).model_fields and getattr(self, self.family) is None:
            raise PydanticCustomError("unfit", "the block of the family", {"found": f"{self.family}: null"})
        return self
