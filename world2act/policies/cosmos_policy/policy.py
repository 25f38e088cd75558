"""A Cosmos Policy on disk and in use.

config.json           sizes, layout, cameras (`CosmosPolicyConfig`)
model.safetensors     the transformer, `CosmosTransformer3DModel`'s keys
statistics.json       the box of proprioception and of actions
prompts.safetensors   an embedding (L, D) for each instruction it knows
vae/                  the video VAE, diffusers layout
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.storage import read_tensors, write_json, write_tensors
from world2act.policies.cosmos_policy.encoding import PictureEncoder
from world2act.policies.cosmos_policy.interface import INTERFACES, Interface
from world2act.policies.cosmos_policy.layout import (
    Frame,
    Layout,
    extract,
    extract_value,
    inject,
)
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax, read_statistics, write_statistics
from world2act.policies.observations import stack_images, stack_proprio
from world2act.policies.robot import family_config
from world2act.policies.weights import save_weights
from world2act.sims.base import Observation
from world2act.world_model.imagining.sampler import SIGMA_MAX, karras_sigmas, seeded_noise, step_weights
from world2act.world_model.parts import checkpoint
from world2act.world_model.parts.conditioning import Prediction, denoise
from world2act.world_model.parts.tokenizer import VideoTokenizer, load_tokenizer
from world2act.world_model.parts.transformer import empty_transformer

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

FAMILY = "cosmos_policy"
SIGMA_MIN = 4.0
CONDITIONING_SIGMA = 0.0
_REMEDY = "use a folder of the base_policy stage or of convert-cosmos-policy; restore it with `dvc checkout`"


@dataclass(frozen=True)
class CosmosPolicyConfig:
    """A policy: its layout, its interface, and the sizes of its transformer, named as in params.yaml.

    Attributes:
        interface: a key of `INTERFACES`: how the robot's numbers become the network's, and back.
        cameras: which of the robot's cameras each picture of the layout shows, `image_size` pixels a side.
        proprio_dim, action_dim: the robot's.
        channels: of the latents. text_dim: of the prompt embeddings.
        prediction: what the network's output means.
        sampler_steps: passes of the network for a chunk.
    """

    layout: Layout
    interface: str
    cameras: tuple[str, ...]
    image_size: int
    proprio_dim: int
    action_dim: int
    chunk_length: int
    channels: int
    text_dim: int
    heads: int
    head_dim: int
    layers: int
    adaln_lora_dim: int
    patch_size: int
    prediction: Prediction
    sampler_steps: int

    def to_dict(self) -> dict[str, Any]:
        layout = {"layout": self.layout.to_list(), "given": self.layout.given}
        return {"family": FAMILY, **{key: getattr(self, key) for key in _written()}, **layout}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config.json. Raises `BadInput` when a key is missing or unknown."""
        values = family_config(path)
        expected = {*_written(), "layout", "given"}
        if values.keys() != expected:
            raise BadInput(path, "", sorted(values), sorted(expected), _REMEDY)
        if values["interface"] not in INTERFACES:
            raise BadInput(path, "interface", values["interface"], sorted(INTERFACES), _REMEDY)
        layout = Layout.from_list(values.pop("layout"), values.pop("given"))
        return cls(layout, **values | {"cameras": tuple(values["cameras"])})

    @property
    def robot_interface(self) -> Interface:
        """The interface between the robot and the network."""
        return INTERFACES[self.interface]

    @property
    def widths(self) -> dict[str, int]:
        """Feature → how many numbers of it the network sees."""
        return self.robot_interface.widths(self.proprio_dim, self.action_dim)


def _written() -> list[str]:
    return [field.name for field in fields(CosmosPolicyConfig) if field.name != "layout"]


@dataclass(frozen=True)
class Foreseen:
    """actions: float32 (B, M, A) in the environment's units. proprio: (B, P) as the network has it, when they have been
    executed. value: (B,) in [0, 1]. latents: (B, C, T, h, w), pictures of the future among them."""

    actions: np.ndarray
    proprio: np.ndarray
    value: np.ndarray
    latents: Tensor


class CosmosPolicy:
    """See `world2act.policies.base.Policy`."""

    def __init__(
        self,
        config: CosmosPolicyConfig,
        network: CosmosTransformer3DModel,
        tokenizer: VideoTokenizer,
        statistics: Mapping[str, MinMax],
        prompts: Mapping[str, np.ndarray],
    ) -> None:
        self.config, self.statistics, self.prompts = config, statistics, prompts
        self.chunk_length, self.action_dim = config.chunk_length, config.action_dim
        self.cameras, self.proprio_dim = dict.fromkeys(config.cameras, config.image_size), config.proprio_dim
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self._side = config.robot_interface.picture_side(config.image_size)
        self._encoder = PictureEncoder(tokenizer, config.layout, self._side)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        return self.foresee(observations, seeds).actions

    @torch.inference_mode()
    def foresee(self, observations: Sequence[Observation], seeds: Sequence[int]) -> Foreseen:
        """All that the network makes: actions, what they lead to, and its value.

        Raises:
            BadInput: a picture or proprioception does not fit, or an instruction's embedding is not there.
        """
        config, layout, robot = self.config, self.config.layout, self.config.robot_interface
        device = next(self.network.parameters()).device
        images = torch.from_numpy(robot.pictures(stack_images(observations, config.cameras, config.image_size)))
        state = robot.proprio(stack_proprio(observations, config.proprio_dim))
        proprio = self.statistics[PROPRIO].normalise(state)
        prompts = torch.from_numpy(np.stack([self._prompt(o.instruction) for o in observations])).to(device)
        seen = {Frame("image", camera): images[:, view] for view, camera in enumerate(layout.cameras)}
        shape = self.tokenizer.latent_shape(self._side, self._side)
        noise = seeded_noise((shape[0], len(layout.frames), *shape[1:]), seeds).to(device)
        clean = torch.zeros_like(noise)
        for index, latent in self._encoder.encode(seen).items():
            clean[:, :, index] = latent.to(device)
        clean[:, :, layout.index("proprio")] = inject(torch.from_numpy(proprio), shape).to(device)
        made = sample(self.network, noise, clean, config, prompts)
        actions = extract(made[:, :, layout.index("action")], (config.chunk_length, config.widths[ACTION]))
        future = extract(made[:, :, layout.index("proprio", future=True)], (config.widths[PROPRIO],))
        return Foreseen(
            np.clip(robot.robot_actions(self.statistics[ACTION].restore(actions.cpu().numpy())), -1, 1),
            self.statistics[PROPRIO].restore(future.cpu().numpy()),
            extract_value(made[:, :, layout.index("value")]).cpu().numpy(),
            made,
        )

    def _prompt(self, instruction: str) -> np.ndarray:
        if instruction not in self.prompts:
            remedy = "use an instruction that it was trained on, or add its embedding to prompts.safetensors"
            raise BadInput("an observation", "instruction", repr(instruction[:200]), sorted(self.prompts), remedy)
        return self.prompts[instruction]


def levels(steps: int) -> list[float]:
    """The noise levels of inference, 80 down to 4: 80, 42.3, 21.0, 9.6 and 4.0 for five steps."""
    return karras_sigmas(steps, SIGMA_MIN).tolist()


def sample(network: nn.Module, noise: Tensor, clean: Tensor, config: CosmosPolicyConfig, prompts: Tensor) -> Tensor:
    """Denoise what the policy makes, second order and without guidance; the last pass gives the answer.

    Args:
        noise, clean: (B, C, T, h, w); of `clean`, the frames that are given. prompts: (B, L, D).
    """
    mask = frame_mask([config.layout.known("policy")] * len(clean)).to(clean)

    def estimate(noised: Tensor, level: float) -> Tensor:
        sigma = torch.full((len(noised),), level).to(noised)
        return denoise(network, noised, sigma, clean, mask, prompts, CONDITIONING_SIGMA, config.prediction)

    schedule = levels(config.sampler_steps)
    noised, earlier = noise * SIGMA_MAX, None
    for level, (kept, slope) in zip(schedule, step_weights(schedule, order=2), strict=False):
        x0 = estimate(noised, level)
        noised = kept * noised + (1 - kept) * x0
        if earlier is not None:
            noised = noised + slope * (x0 - earlier)
        earlier = x0
    return estimate(noised, schedule[-1])


def frame_mask(known: Sequence[Sequence[bool]]) -> Tensor:
    """1 on the frames that a sample is given, (B, 1, T, 1, 1)."""
    return torch.tensor(known).float()[:, None, :, None, None]


def save_pretrained(
    directory: Path,
    config: CosmosPolicyConfig,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, MinMax],
    prompts: Mapping[str, np.ndarray],
    vae: Path,
) -> None:
    """Write the parts of a policy into an existing directory; `vae` is copied."""
    write_json(directory / "config.json", config.to_dict())
    save_weights(directory / "model.safetensors", weights)
    write_statistics(directory / "statistics.json", statistics)
    write_tensors(directory / "prompts.safetensors", prompts)
    shutil.copytree(vae, directory / "vae")


def from_pretrained(directory: str | Path) -> CosmosPolicy:
    """Open a policy, on the GPU where there is one.

    Raises:
        BadInput: a part is missing or damaged, or the weights are not exactly those that config.json asks for.
    """
    root = Path(directory)
    config = CosmosPolicyConfig.read(root / "config.json")
    statistics = read_statistics(root / "statistics.json", config.widths)
    prompts = read_tensors(root / "prompts.safetensors")
    path = root / "model.safetensors"
    network = empty_transformer(config, config.channels, config.text_dim)
    network = checkpoint.assign_strictly(network, checkpoint.read_tensors(path), path)
    device = best_device()
    return CosmosPolicy(config, network.to(device), load_tokenizer(root), statistics, prompts)
