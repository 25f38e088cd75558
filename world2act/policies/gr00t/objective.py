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
from world2act.policies.gr00t.policy import PixelScale, prompts, save_pretrained
from world2act.policies.gr00t.sizing import make_config
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax
from world2act.policies.words import make_tokenizer, tokenize
from world2act.training.objective import Place, draw, epoch_indices

_TIME_SCALE = 0.999


@dataclass(frozen=True)
class Batch:
    """B observations with K noisy chunks each; `target` and `real` are (B, K, M, A) and (B, M)."""

    pixels: Tensor
    prompt: Tensor
    mask: Tensor
    state: Tensor
    noisy: Tensor
    times: Tensor
    target: Tensor
    real: Tensor


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
        self.tokenizer = make_tokenizer(chunks.instructions)
        self.statistics = {ACTION: MinMax.of(chunks.actions), PROPRIO: MinMax.of(chunks.proprio)}
        self.config = make_config(params, chunk_length, dataset, len(self.tokenizer))
        self.model = Gr00tModel(self.config.network, seed)
        self._chunks, self._draws, self._seed = chunks, params.noise_draws, seed
        means, stds = zip(*(mean_image(frames, chunks.rows) for frames in chunks.cameras), strict=True)
        self.pixels = PixelScale(torch.stack(means), torch.stack(stds)[:, None, None, None])
        self._proprio = torch.from_numpy(self.statistics[PROPRIO].normalise(chunks.proprio))
        self._words, self._word_mask = tokenize(self.tokenizer, chunks.instructions)

    def batch(self, place: Place) -> Batch:
        rows = epoch_indices(len(self._chunks), place, self._seed)
        actions, real = self._chunks.chunks(rows.numpy(), self.config.chunk_length)
        actions = torch.from_numpy(self.statistics[ACTION].normalise(actions))[:, None]
        generators = place.generators()
        noise = draw(generators, "randn", self._draws, *actions.shape[2:])
        # Beta(1.5, 1) by its inverse distribution function, u^(1/1.5), so that the draw comes from our generators
        times = (1 - draw(generators, "rand", self._draws) ** (1 / 1.5)) * _TIME_SCALE
        t = times[..., None, None]
        instruction = torch.from_numpy(self._chunks.instruction)[rows]
        pixels = self.pixels(torch.from_numpy(self._chunks.images(rows.numpy())).permute(0, 1, 4, 2, 3))
        prompt, mask = prompts(self.config.network, pixels, self._words[instruction], self._word_mask[instruction])
        batch = Batch(
            pixels=pixels,
            prompt=prompt,
            mask=mask,
            state=self._proprio[rows][:, None],
            noisy=(1 - t) * noise + t * actions,
            times=times,
            target=actions - noise,
            real=torch.from_numpy(real),
        )
        return Batch(**{key: value.to(place.device) for key, value in vars(batch).items()})

    def loss(self, model: nn.Module, batch: Batch, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        inputs = Inputs(batch.pixels, batch.prompt, batch.mask, batch.state, self.config.embodiment_slot)
        velocity = model(inputs, batch.noisy, batch.times)
        return masked_error(velocity, batch.target, batch.real), {}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a policy with these weights into an existing directory."""
        save_pretrained(directory, self.config, weights, self.pixels, self.statistics, self.tokenizer)


def masked_error(velocity: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """Mean squared error of (B, K, M, A) over the actions that exist, `real` (B, M)."""
    weight = real[:, None, :, None].expand_as(target).float()
    return ((velocity - target) ** 2 * weight).sum() / weight.sum()
