"""Imitation by denoising a made-up video: labelled frames → latents of which some are given and the others noised.

Source: Cosmos Policy: its noise levels, and Cosmos-Predict2's weight (1 + sigma)² / sigma², which makes the loss that
of the velocity. It trains half on demonstrations and half on rollouts of its own, failures among them; here there are
only demonstrations, which all succeed. So the roles of world model and value can be practised (`roles`), but a value
that has seen no failure tells how far the end is, and not whether it will be reached. Actions beyond an episode's end
do not count. Encoded pictures are kept where there is room for those of all samples; where there is none, the
`noise_draws` noisy copies of each spare the VAE some work. Both are ours: the VAE costs more than a tiny network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy
from world2act.core.storage import sha256
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.cosmos_policy.encoding import PictureEncoder
from world2act.policies.cosmos_policy.interface import INTERFACES
from world2act.policies.cosmos_policy.layout import Frame, Role, inject, inject_value
from world2act.policies.cosmos_policy.params import Parameters
from world2act.policies.cosmos_policy.policy import (
    CONDITIONING_SIGMA,
    CosmosPolicy,
    CosmosPolicyConfig,
    frame_mask,
    from_pretrained,
    save_pretrained,
)
from world2act.policies.dataset import describe_robot
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax
from world2act.training.objective import BatchPosition, epoch_indices
from world2act.world_model.learning.tuning import merge, tune
from world2act.world_model.parts.conditioning import denoise
from world2act.world_model.parts.text import load_text_encoder
from world2act.world_model.parts.tokenizer import load_tokenizer
from world2act.world_model.parts.transformer import build_transformer, check_parameters

KEPT_NUMBERS = 2**27  # float32: 512 MiB a rank
LOGNORMAL_SHARE, LOG_MEAN, LOG_STD, UNIFORM = 0.7, math.log(4), 1.2, (1.0, 85.0)


def draw_sigma(frames: int, generator: torch.Generator) -> Tensor:
    """One training noise level, (): 70 % LogN(ln 4, 1.2), 30 % U(1, 85), times the square root of the latent frames."""
    lognormal = (LOG_MEAN + LOG_STD * torch.randn((), generator=generator)).exp()
    low, high = UNIFORM
    uniform = low + (high - low) * torch.rand((), generator=generator)
    chosen = torch.where(torch.rand((), generator=generator) < LOGNORMAL_SHARE, lognormal, uniform)
    return chosen * math.sqrt(frames)


@dataclass(frozen=True)
class Batch:
    """x0, noise (B, C, T, h, w); sigma (B,); mask (B, 1, T, 1, 1), 1 on frames that are given; weight (B, C, T, h, w),
    0 on what is not known; prompts (B, L, D)."""

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    mask: Tensor
    weight: Tensor
    prompts: Tensor


class CosmosPolicyObjective:
    """See `world2act.policies.imitation.Imitation`."""

    def __init__(self, params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> None:
        block, robot = params.block(Parameters), describe_robot(dataset)
        interface = INTERFACES[block.interface]
        layout, cameras = interface.fit(robot, "base_policy.cosmos_policy.interface")
        source = _open_policy(block)
        folder = _parts_folder(block, source)
        tokenizer, self._vae = load_tokenizer(folder), folder / "vae"
        side = interface.picture_side(robot.image_size)
        self._shape = tokenizer.latent_shape(side, side)
        self._actions, self._proprio = interface.network_actions(chunks.actions), interface.proprio(chunks.proprio)
        self.statistics, self.prompts = self._inputs(block, source, folder, chunks)
        self.config = CosmosPolicyConfig(
            layout=layout,
            interface=block.interface,
            cameras=cameras,
            image_size=robot.image_size,
            proprio_dim=len(robot.proprio),
            action_dim=len(robot.actions),
            chunk_length=params.chunk_length,
            channels=self._shape[0],
            text_dim=next(iter(self.prompts.values())).shape[1],
            heads=block.heads,
            head_dim=block.head_dim,
            layers=block.layers,
            adaln_lora_dim=block.adaln_lora_dim,
            patch_size=block.patch_size,
            prediction=block.prediction,
            sampler_steps=block.sampler_steps,
        )
        self.model = self._network(block, source, folder, seed)
        self._adapted = block.tuning == "lora"
        self._encoder = PictureEncoder(tokenizer, layout, side)
        self._chunks, self._seed, self._draws, self._discount = chunks, seed, block.noise_draws, block.discount
        self._views = [dataset.cameras.index(camera) for camera in cameras]
        self._roles: list[Role] = ["policy", "world_model", "value"]
        self._shares = [block.roles.policy, block.roles.world_model, block.roles.value]
        self._prompts = torch.from_numpy(np.stack([self.prompts[text] for text in chunks.instructions]))
        self.reads = "".join(
            sha256(source) for source in (self._vae, block.weights) if source and Path(source).exists()
        )
        self._prepare_cache()
        # refuses a chunk that does not fit into a latent frame
        inject(torch.zeros(1, params.chunk_length * self.config.widths[ACTION]), self._shape)

    def _inputs(
        self, block: Parameters, source: CosmosPolicy | None, folder: Path, chunks: ChunkDataset
    ) -> tuple[Mapping[str, MinMax], Mapping[str, np.ndarray]]:
        """Statistics and prompt embeddings: those of the policy that training starts from, or of the training split."""
        if source is None:
            embedded = load_text_encoder(folder, block.text_length).embed(chunks.instructions).numpy()
            statistics = {ACTION: MinMax.of(self._actions), PROPRIO: MinMax.of(self._proprio)}
            return statistics, dict(zip(chunks.instructions, embedded, strict=True))
        if missing := sorted(set(chunks.instructions) - source.prompts.keys()):
            where, remedy = (
                folder / "prompts.safetensors",
                "use instructions that the weights know, or add T5 embeddings",
            )
            raise BadInput(where, missing[0], f"{len(source.prompts)} other instructions", "an embedding", remedy)
        return source.statistics, source.prompts

    def _network(self, block: Parameters, source: CosmosPolicy | None, folder: Path, seed: int) -> nn.Module:
        if source is None:
            network = build_transformer(block, self.config.channels, self.config.text_dim, seed)
        else:
            _must_agree(source.config, self.config, folder / "config.json")
            check_parameters(source.network, block.parameters)
            network = source.network.requires_grad_(True)
        model = tune(network, block, seed)
        return model.requires_grad_(False) if block.tuning == "none" else model

    def _prepare_cache(self) -> None:
        """Room for the encoded images of all samples, where it is small enough."""
        frames, samples = self.config.layout.frames, len(self._chunks)
        self._pictured = [index for index, frame in enumerate(frames) if frame.kind in ("blank", "image")]
        shape = (samples, self._shape[0], len(self._pictured), *self._shape[1:])
        self._kept = torch.empty(shape) if math.prod(shape) <= KEPT_NUMBERS else None
        self._seen = np.zeros(samples, bool)

    def batch(self, position: BatchPosition) -> Batch:
        rows = epoch_indices(len(self._chunks), position, self._seed).numpy()
        x0, weight = self._latents(rows)
        x0, weight = (tensor.repeat_interleave(self._draws, 0) for tensor in (x0, weight))
        prompts = self._prompts[self._chunks.instruction[rows]].repeat_interleave(self._draws, 0)
        known, noise, sigma = [], [], []
        for generator in position.generators():
            for _ in range(self._draws):
                role = self._roles[int(torch.multinomial(torch.tensor(self._shares), 1, generator=generator))]
                known.append(self.config.layout.known(role))
                sigma.append(draw_sigma(x0.shape[2], generator))
                noise.append(torch.randn(x0.shape[1:], generator=generator))
        batch = Batch(x0, torch.stack(noise), torch.stack(sigma), frame_mask(known), weight, prompts)
        return Batch(**{key: value.to(position.device) for key, value in vars(batch).items()})

    def _latents(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The clean latents of samples that begin at these frames, and where they are known: (B, C, T, h, w) each."""
        config, layout, chunks, shape = self.config, self.config.layout, self._chunks, self._shape
        last = chunks.ends[rows] - 1
        after = np.minimum(rows + config.chunk_length, last)
        x0 = torch.zeros(len(rows), shape[0], len(layout.frames), *shape[1:])
        x0[:, :, self._pictured] = self._encoded(rows, after)
        actions, real = chunks.chunks(rows, config.chunk_length)
        actions = config.robot_interface.network_actions(actions)
        values = {
            layout.index("action"): self.statistics[ACTION].normalise(actions),
            layout.index("proprio"): self.statistics[PROPRIO].normalise(self._proprio[rows]),
            layout.index("proprio", future=True): self.statistics[PROPRIO].normalise(self._proprio[after]),
        }
        for index, numbers in values.items():
            x0[:, :, index] = inject(torch.from_numpy(numbers), shape)
        value = torch.from_numpy(self._discount ** (last - after)).float()
        x0[:, :, layout.index("value")] = inject_value(value, shape)
        weight = torch.ones_like(x0)
        known = torch.from_numpy(real).float()[..., None].expand(*actions.shape)
        weight[:, :, layout.index("action")] = inject(known, shape)
        return x0, weight

    def _encoded(self, rows: np.ndarray, after: np.ndarray) -> Tensor:
        """The latent frames of the blank and of all images, (B, C, P, h, w), encoded when they are first needed, and
        kept where there is room for those of all samples."""
        if self._kept is None:
            return self._encode(rows, after)
        new = ~self._seen[rows]
        if new.any():
            self._kept[rows[new]], self._seen[rows[new]] = self._encode(rows[new], after[new]), True
        return self._kept[rows]

    def _encode(self, rows: np.ndarray, after: np.ndarray) -> Tensor:
        prepare, layout = self.config.robot_interface.pictures, self.config.layout
        now, then = (torch.from_numpy(prepare(self._chunks.images(at)[:, self._views])) for at in (rows, after))
        pictures = {
            Frame("image", camera, future): images[:, view]
            for view, camera in enumerate(layout.cameras)
            for future, images in ((False, now), (True, then))
        }
        latents = self._encoder.encode(pictures)
        return torch.stack([latents[index] for index in self._pictured], 2)

    def loss(self, model: nn.Module, batch: Batch, position: BatchPosition) -> tuple[Tensor, dict[str, Tensor | float]]:
        sigma = batch.sigma.view(-1, 1, 1, 1, 1)
        noised = batch.x0 + sigma * batch.noise
        condition = (batch.x0, batch.mask, batch.prompts, CONDITIONING_SIGMA, self.config.prediction)
        estimate = denoise(model, noised, batch.sigma, *condition)
        counted = (1 - batch.mask) * batch.weight
        squared = (estimate - batch.x0).square() * counted
        loss = 10 * (squared * ((1 + sigma) / sigma).square()).sum() / counted.sum()
        action = self.config.layout.index("action")
        predicted = counted[:, :, action].sum().clamp(min=1)
        return loss, {"action_error": (squared[:, :, action].sum() / predicted).detach()}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        weights = merge(self.model, weights) if self._adapted else weights
        save_pretrained(directory, self.config, weights, self.statistics, self.prompts, self._vae)


def _parts_folder(block: Parameters, source: CosmosPolicy | None) -> Path:
    """The folder of the VAE and of the text encoder or the prompts."""
    return Path(block.weights) if source is not None and block.weights is not None else Path(block.tokenizer)


def _open_policy(block: Parameters) -> CosmosPolicy | None:
    """The policy that `weights` name, where they are one: its VAE, prompts and statistics come with them."""
    if block.weights is not None and (Path(block.weights) / "prompts.safetensors").is_file():
        return from_pretrained(block.weights)
    if block.tuning == "none":
        remedy = "name the folder that convert-cosmos-policy wrote, or train (tuning: full)"
        raise BadInput("params.yaml", "base_policy.cosmos_policy.weights", block.weights, "a policy's folder", remedy)
    return None


def _must_agree(found: CosmosPolicyConfig, wanted: CosmosPolicyConfig, where: Path) -> None:
    names = [field.name for field in fields(wanted)]
    if wrong := [name for name in names if getattr(found, name) != getattr(wanted, name)]:
        said, expected = ({name: getattr(config, name) for name in wrong} for config in (found, wanted))
        remedy = "set base_policy.cosmos_policy, base_policy.chunk_length and demos.image_size to those of the weights"
        raise BadInput(where, ", ".join(wrong), said, expected, remedy)


def make_objective(
    params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int
) -> CosmosPolicyObjective:
    """See `world2act.policies.imitation.Trainable`."""
    return CosmosPolicyObjective(params, dataset, chunks, seed)
