"""Imitation by flow matching: x_t = (1 - t) noise + t actions, learn the velocity actions - noise.

Source: GR00T-N1.6 (t = (1 - Beta(1.5, 1)) · 0.999, squared error averaged over the robot's own numbers and the steps
that there are; where the checkpoint asks for it, the state is hidden from some samples or disturbed, and pictures are
cropped at random and recoloured). Its `draws` chunks of noise for each encoded observation are ours: the action head
is small next to the encoder, and the gradient's noise falls for little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.params import BasePolicy
from world2act.core.storage import sha256
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.gr00t.initialisation import plan
from world2act.policies.gr00t.model import Inputs
from world2act.policies.gr00t.params import Parameters
from world2act.policies.gr00t.policy import save_pretrained
from world2act.policies.gr00t.processing import draw_augmentation
from world2act.policies.gr00t.tuning import tune
from world2act.training.dry_run import build_or_outline
from world2act.training.objective import BatchPosition, draw, epoch_indices
from world2act.world_model.learning.tuning import merge

_TIME_SCALE = 0.999


@dataclass(frozen=True)
class Batch:
    """B observations with K noisy chunks each, at flow times (B, K); `noisy` and `target` are (B, K, M, A), `learned`
    bool (B, M, A)."""

    inputs: Inputs
    noisy: Tensor
    times: Tensor
    target: Tensor
    learned: Tensor


class ImitationObjective:
    """Frames of the training split → masked velocity error.

    Args:
        params: its block `gr00t` has `noise_draws`, which is K.
        dataset: what the frames were read from.
        chunks: the frames of the training split; what is measured and the vocabulary come from them alone.
        seed: of weights that are drawn and of the order of the frames.

    Raises:
        BadInput: the checkpoint, the robot and the parameters do not fit one another.
    """

    def __init__(self, params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> None:
        block, start = params.block(Parameters), plan(params, dataset, chunks)
        self.processor = start.processor
        self.model = build_or_outline(
            lambda: tune(start.load(seed), block, seed), lambda: tune(start.outline(), block, seed), params.training
        )
        self.reads = sha256(block.weights) if block.weights and Path(block.weights).exists() else ""
        self._adapted = block.tuning == "lora"
        self._chunks, self._draws, self._seed = chunks, block.noise_draws, seed
        trained_with = start.network.action_head.state_dropout
        self._state_dropout = trained_with if block.state_dropout is None else block.state_dropout
        self._views = [dataset.cameras.index(camera) for camera in self.processor.cameras]
        self._state = self.processor.state(chunks.proprio)
        self._prompts, self._mask = self.processor.prompts(chunks.instructions)

    def batch(self, position: BatchPosition) -> Batch:
        frames = epoch_indices(len(self._chunks), position, self._seed).numpy()
        labels = self._chunks.chunks(frames, self.processor.chunk_length)
        actions, learned = self.processor.targets(*labels, self._chunks.proprio[frames])
        actions = actions[:, None]
        generators = position.generators()
        noise = draw(generators, "randn", self._draws, *actions.shape[2:])
        # Beta(1.5, 1) by its inverse distribution function, u^(1/1.5), so that the draw comes from our generators
        times = (1 - draw(generators, "rand", self._draws) ** (1 / 1.5)) * _TIME_SCALE
        t = times[..., None, None]
        batch = Batch(
            inputs=self._inputs(frames, generators),
            noisy=(1 - t) * noise + t * actions,
            times=times,
            target=actions - noise,
            learned=learned,
        )
        return Batch(**{key: value.to(position.device) for key, value in vars(batch).items()})

    def _inputs(self, frames: np.ndarray, generators: list[torch.Generator]) -> Inputs:
        head, settings = self.model.config.action_head, self.processor.settings
        drawn = [draw_augmentation(settings, generator) for generator in generators] if settings.resizes else None
        instructions = self._chunks.instruction[frames]
        return Inputs(
            pixels=self.processor.pixels(self._chunks.images(frames)[:, self._views], drawn),
            prompt=self._prompts[instructions],
            mask=self._mask[instructions],
            state=self._state[frames],
            slot=self.processor.slot,
            dropped=draw(generators, "rand") < self._state_dropout if self._state_dropout else None,
            noise=head.state_noise * draw(generators, "randn", 1, head.dim) if head.state_noise else None,
        )

    def loss(self, model: nn.Module, batch: Batch, position: BatchPosition) -> tuple[Tensor, dict[str, Tensor | float]]:
        velocity = model(batch.inputs, batch.noisy, batch.times)
        return masked_error(velocity, batch.target, batch.learned), {}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a policy with these weights into an existing directory."""
        weights = merge(self.model, weights) if self._adapted else weights
        save_pretrained(directory, self.model.config, weights, self.processor)


def masked_error(velocity: Tensor, target: Tensor, learned: Tensor) -> Tensor:
    """Mean squared error of (B, K, M, A) over what there is to learn, `learned` (B, M, A)."""
    weight = learned[:, None].expand_as(target).float()
    return ((velocity - target) ** 2 * weight).sum() / weight.sum()


def make_objective(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> ImitationObjective:
    """See `world2act.policies.imitation.Trainable`."""
    return ImitationObjective(params, dataset, chunks, seed)
