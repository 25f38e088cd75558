"""params.yaml as typed values. Every key is required, an unknown key is an error, nothing has a default here.

The profiles in conf/profile are the sources: `default.yaml` holds every key, each other profile what it changes.
params.yaml is the profile in force, written by `world2act profile NAME` and read by DVC and by every stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params.gates import Gates
from world2act.core.params.section import Count, Positive, Section, Share
from world2act.core.params.skills import Skills

PROFILES = Path("conf/profile")
PARAMS = Path("params.yaml")


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


class Base(Section):
    """seed: of everything random. ranks: training processes. workers: simulator processes."""

    seed: Annotated[int, Field(ge=0)]
    ranks: Count
    workers: Count


class Camera(Section):
    """position_m, fovy_deg: where the simulator's own camera is moved to; null leaves it as it is. protocol: the
    published evaluation protocol that the pictures follow, or null.
    """

    name: str
    position_m: tuple[float, float, float] | None = Field(strict=False)
    fovy_deg: Positive | None
    protocol: Literal["libero-openpi", "libero-lerobot"] | None


def _together(cameras: tuple[Camera, ...]) -> tuple[Camera, ...]:
    for what, values, right in (
        ("names", [camera.name for camera in cameras], len(cameras)),
        ("protocols", [camera.protocol for camera in cameras], 1),
    ):
        if len(set(values)) != right:
            raise PydanticCustomError("unfit", "different names and one protocol", {"found": f"{what} {values}"})
    return cameras


class Demos(Section):
    """cameras: all of them are rendered and recorded; the base policy sees each, and the world model all of them tiled
    into one frame. The first is the main one: what the residual, the gates and people look at. recorded: datasets in
    data/recorded that stand in for the experts. ingested: whether the episodes of data/ingested join the training
    parts.
    """

    simulator: str
    tasks: list[str] = Field(min_length=1)
    cameras: Annotated[tuple[Camera, ...], Field(strict=False, min_length=1, max_length=4), AfterValidator(_together)]
    image_size: Count
    labelled_per_task: Count
    video_only_per_task: Count
    post_training_per_task: Count
    test_per_task: Count
    heldout_share: Share
    action_noise: Annotated[float, Field(ge=0)]
    noise_steps: Count
    settle_steps: Annotated[int, Field(ge=0)]
    max_steps: Count
    recorded: list[str]
    ingested: bool


class Tokenizer(Section):
    """source: "train", or where the VAE and the text encoder come from. vae, text_encoder: each from elsewhere."""

    source: str
    vae: str | None
    text_encoder: str | None
    base_dim: Count
    dim_mult: list[int]
    num_res_blocks: Count
    patch_size: Annotated[int, Field(ge=1)]
    latent_channels: Count
    kl_weight: Annotated[float, Field(ge=0)]
    clip_frames: Count
    image_share: Share
    foreground_weight: Annotated[float, Field(ge=0)]
    text_dim: Count
    text_layers: Count
    text_length: Count
    training: Training


class Latents(Section):
    batch_size: Count


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


class Bridge(Section):
    dim: Count
    temperature: Positive
    contrastive_weight: Positive
    hard_ratio: Share
    negatives: Count
    sampler: Sampler
    training: Training


class Rollouts(Section):
    """feedback: what a skill hands to the next one, its last frames (decoded and encoded again) or its last latents.
    conditioning_frames: how many of them; the first skill of a rollout starts from the one frame that there is."""

    sampler: Sampler
    feedback: Literal["frame", "latent"]
    conditioning_frames: Literal[1, 5]
    batch_size: Count


class PostTrain(Section):
    """`training.batch_size` is the number of parallel environments of all ranks."""

    updates_per_rollout: Count
    max_chunks: Count
    heads: Count
    layers: Count
    temperature: Positive
    hard_ratio: Share
    training: Training


class Evaluate(Section):
    environments: Count
    max_steps: Count
    confidence: Share
    videos_per_task: Count
    video_size: Count


class Params(Section):
    profile: str
    base: Base
    demos: Demos
    skills: Skills
    tokenizer: Tokenizer
    latents: Latents
    world_model: WorldModel
    judge: Judge
    base_policy: BasePolicy
    bridge: Bridge
    rollouts: Rollouts
    post_train: PostTrain
    evaluate: Evaluate
    gates: Gates


def load_params(path: str | Path = PARAMS) -> Params:
    """Read and check a parameter file.

    Raises:
        BadInput: the file is missing or not YAML, or a key is missing, unknown or of the wrong type; the
            message names every such key.
    """
    return parse_params(read_yaml(Path(path)), path)


def parse_params(values: Any, where: str | Path) -> Params:
    """Check values that came from `where`. Raises `BadInput` as `load_params` does."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        keys = ", ".join(".".join(map(str, fault["loc"])) for fault in faults)
        found = "; ".join(_found(fault) for fault in faults)
        expected = "; ".join(fault["msg"] for fault in faults)
        raise BadInput(
            where, keys, found, expected, "correct the key; conf/profile/default.yaml lists them all"
        ) from error


def compose(profile: str, root: str | Path = ".") -> dict[str, Any]:
    """The full values of a profile: conf/profile/default.yaml overlaid with conf/profile/<profile>.yaml.

    Raises:
        BadInput: there is no such profile, or it names a key that default.yaml does not have.
    """
    folder = Path(root) / PROFILES
    values = read_yaml(folder / "default.yaml")
    path = folder / f"{profile}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise BadInput(path, "", "no such profile", f"one of {known}", "name one of these, or write the file")
    if profile != "default":
        _overlay(values, read_yaml(path), path, "")
    parse_params(values, path)
    return values


def _overlay(values: dict[str, Any], changes: dict[str, Any], path: Path, prefix: str) -> None:
    for key, change in changes.items():
        if key not in values:
            raise BadInput(path, f"{prefix}{key}", "an unknown key", f"one of {sorted(values)}", "correct its spelling")
        if isinstance(values[key], dict) and isinstance(change, dict):
            _overlay(values[key], change, path, f"{prefix}{key}.")
        else:
            values[key] = change


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of sections. Raises `BadInput` when it is missing, not YAML or not a mapping."""
    if not path.exists():
        raise BadInput(path, "", "no such file", "a parameter file", "run `world2act profile default` to write it")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BadInput(path, "", str(error), "valid YAML", "correct the line that the message names") from error
    if not isinstance(values, dict):
        raise BadInput(
            path, "", type(values).__name__, "a mapping of sections", "compare with conf/profile/default.yaml"
        )
    return values


def _found(fault: Any) -> str:
    match fault["type"]:
        case "missing":
            return "a missing key"
        case "extra_forbidden":
            return "an unknown key"
        case "unfit":
            return fault["ctx"]["found"]
        case _:
            return repr(fault["input"])
