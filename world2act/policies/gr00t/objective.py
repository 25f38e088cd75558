"""Imitation by flow matching: x_t = (1 - t) noise + t actions, learn the velocity actions - noise.

Source: GR00T-N1.6 (t = (1 - Beta(1.5, 1)) · 0.999, masked mean squared error). Its `draws` chunks of noise for each
encoded observation are ours: the action head is small beside the encoder, and the gradient's noise falls for little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.params import Gr00t
from world2act.policies.dataset import mean_image
from world2act.policies.gr00t.model import Gr00tModel, Inputs
from world2act.policies.gr00t.policy import save_pretrained
from world2act.policies.gr00t.processing import Names, PixelScale, Processor, Robot, Settings, make_tokenizer
from world2act.policies.gr00t.sizing import make_config
from world2act.training.objective import Place, draw, epoch_indices

_TIME_SCALE = 0.999


@dataclass(frozen=True)
class Batch:
    """B observations with K noisy chunks each; `target` is (B, K, M, A), `learned` bool (B, M, A)."""

    pixels: Tensor
    prompt: Tensor
    mask: Tensor
    state: Tensor
    noisy: Tensor
    times: Tensor
    target: Tensor
    learned: Tensor


class ImitationObjective:
    """Frames of the training split → masked velocity error.

    Args:
        params: sizes and `noise_draws` (K).
        dataset: what the frames were read from.
        chunks: the frames of the training split; normalisation and vocabulary come from them alone.
        seed: of the initial weights and of the order of the frames.
    """

    reads = ""

    def __init__(
        self, params: Gr00t, chunk_length: int, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int
    ) -> None:
        tokenizer = make_tokenizer(chunks.instructions)
        network = make_config(params, chunk_length, dataset, tokenizer)
        self.model = Gr00tModel(network, seed)
        self._chunks, self._draws, self._seed = chunks, params.noise_draws, seed
        means, stds = zip(*(mean_image(frames, chunks.rows) for frames in chunks.cameras), strict=True)
        self.processor = Processor.of_dataset(
            Settings(
                # the pictures of a fixed camera, as they are
                shortest_image_edge=None,
                crop_fraction=None,
                max_state_dim=network.action_head.state_dim,
                max_action_dim=network.action_head.action_dim,
                max_action_horizon=network.action_head.horizon,
                clip_outliers=False,
            ),
            Robot.of(dataset),
            Names(),
            tokenizer,
            actions=chunks.actions,
            proprio=chunks.proprio,
            chunk_length=chunk_length,
            embodiment=params.embodiment,
            slot=0,
            token_side=network.vision_language.token_side,
            scale=PixelScale(torch.stack(means), torch.stack(stds)[:, None, None, None]),
        )
        self._state = self.processor.state(chunks.proprio)
        self._prompts, self._mask = self.processor.prompts(chunks.instructions)

    def batch(self, place: Place) -> Batch:
        rows = epoch_indices(len(self._chunks), place, self._seed)
        labels = self._chunks.chunks(rows.numpy(), self.processor.chunk_length)
        actions, learned = self.processor.targets(*labels, self._chunks.proprio[rows.numpy()])
        actions = actions[:, None]
        generators = place.generators()
        noise = draw(generators, "randn", self._draws, *actions.shape[2:])
        # Beta(1.5, 1) by its inverse distribution function, u^(1/1.5), so that the draw comes from our generators
        times = (1 - draw(generators, "rand", self._draws) ** (1 / 1.5)) * _TIME_SCALE
        t = times[..., None, None]
        instruction = torch.from_numpy(self._chunks.instruction)[rows]
        batch = Batch(
            pixels=self.processor.pixels(self._chunks.images(rows.numpy())),
            prompt=self._prompts[instruction],
            mask=self._mask[instruction],
            state=self._state[rows],
            noisy=(1 - t) * noise + t * actions,
            times=times,
            target=actions - noise,
            learned=learned,
        )
        return Batch(**{key: value.to(place.device) for key, value in vars(batch).items()})

    def loss(self, model: nn.Module, batch: Batch, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        inputs = Inputs(batch.pixels, batch.prompt, batch.mask, batch.state, self.processor.slot)
        velocity = model(inputs, batch.noisy, batch.times)
        return masked_error(velocity, batch.target, batch.learned), {}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a policy with these weights into an existing directory."""
        save_pretrained(directory, self.model.config, weights, self.processor)


def masked_error(velocity: Tensor, target: Tensor, learned: Tensor) -> Tensor:
    """Mean squared error of (B, K, M, A) over what there is to learn, `learned` (B, M, A)."""
    weight = learned[:, None].expand_as(target).float()
    return ((velocity - target) ** 2 * weight).sum() / weight.sum()
