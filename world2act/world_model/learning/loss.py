"""The world model's training objective: denoising of skill clips, padding and conditioning latents left out.

The input is the latent cache; the clips are those of video-only training episodes, so that clips with actions stay
unseen. They stay on the disk, memory-mapped: a rank reads the clips of its own samples. All samples of a step have one
length, drawn in proportion to how many clips have it: Cosmos' self-attention takes no padding mask, and so nothing is
ever padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.seeds import derive
from world2act.data.latent_cache import Clip, LatentCache
from world2act.training.objective import BatchPosition, draw
from world2act.world_model.parts.conditioning import LatentSpace, conditioning_mask, denoise

HIGH_SIGMA = (200.0, 1e5)


def draw_sigma(count: int, latents: int, high_share: float, generator: torch.Generator) -> Tensor:
    """Training noise levels, (count,): LogN(0, 1) * sqrt(latents), a share `high_share` log-uniform on 200..1e5."""
    sigma = torch.randn(count, generator=generator).exp() * math.sqrt(latents)
    low, high = (math.log(edge) for edge in HIGH_SIGMA)
    high_sigma = (low + (high - low) * torch.rand(count, generator=generator)).exp()
    return torch.where(torch.rand(count, generator=generator) < high_share, high_sigma, sigma)


def denoising_loss(estimate: Tensor, x0: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """10 * mean[(estimate - x0)^2 (1 + sigma)^2 / sigma^2] over the latents that are not conditioning.

    Conditioning latents count neither in the sum nor in the mean (the released training code counts their zeros).

    Args:
        estimate, x0: (B, C, T, h, w). sigma: (B,). mask: (B, 1, T, 1, 1), 1 on conditioning latents.
    """
    weight = ((1 + sigma) / sigma).square().view(-1, 1, 1, 1, 1) * (1 - mask)
    _, channels, _, height, width = x0.shape
    return 10 * ((estimate - x0).square() * weight).sum() / ((1 - mask).sum() * channels * height * width)


@dataclass
class Batch:
    """Clips in the network's space, (B, C, T, h, w), with their noise, noise level, mask and prompt embeddings."""

    x0: Tensor
    noise: Tensor
    sigma: Tensor
    mask: Tensor
    prompt_embeds: Tensor


class DenoisingObjective:
    """Draws clips of one length, drops a share of the prompts, noises the clip after its first latents.

    Args:
        clips: the training clips.
        space: what the network denoises.
        conditioning_latents: how many first latents are clean, drawn uniformly from these.
    """

    def __init__(
        self,
        network: nn.Module,
        cache: LatentCache,
        clips: Sequence[Clip],
        space: LatentSpace,
        *,
        conditioning_latents: Sequence[int],
        text_dropout: float,
        high_sigma_share: float,
        seed: int,
    ) -> None:
        self.model = network.train()
        self._cache, self._clips, self._space = cache, clips, space
        self._given, self._seed = conditioning_latents, seed
        self._text_dropout, self._high_sigma_share = text_dropout, high_sigma_share
        self._of_length: dict[int, list[int]] = {}
        for index, clip in enumerate(clips):
            self._of_length.setdefault(clip.latents, []).append(index)

    def choose(self, position: BatchPosition) -> list[int]:
        """Which of `clips` a batch holds; all of one length."""
        length, _ = self._of_step(position.step)
        return self._choose(length, position.generators())

    def reading(self, position: BatchPosition) -> list[tuple[str, int]]:
        """Each sample's clip, and its bytes in the cache."""
        clips = [self._clips[index] for index in self.choose(position)]
        return [
            (f"{clip.dataset} {clip.episode_index}/{clip.skill_index}", self._cache.latents(clip).nbytes)
            for clip in clips
        ]

    def _of_step(self, step: int) -> tuple[int, int]:
        """What a step's samples share, so that no rank waits for another: latents of a clip, and how many are given."""
        shared = torch.Generator().manual_seed(derive(self._seed, "step", step))
        length = self._clips[int(torch.randint(len(self._clips), (), generator=shared))].latents
        return length, self._given[int(torch.randint(len(self._given), (), generator=shared))]

    def _choose(self, length: int, generators: Sequence[torch.Generator]) -> list[int]:
        same = self._of_length[length]
        return [same[int(torch.randint(len(same), (), generator=generator))] for generator in generators]

    def batch(self, position: BatchPosition) -> Batch:
        generators = position.generators()
        length, conditioned = self._of_step(position.step)
        clips = [self._clips[index] for index in self._choose(length, generators)]
        latents = torch.from_numpy(np.stack([self._cache.latents(clip) for clip in clips])).transpose(1, 2)
        x0 = self._space.to_network(latents)
        dropped = draw(generators, "rand") < self._text_dropout
        prompts = torch.where(dropped, self._cache.no_prompt, torch.tensor([clip.prompt_row for clip in clips]))
        sigma = torch.cat([draw_sigma(1, length, self._high_sigma_share, generator) for generator in generators])
        noise = draw(generators, "randn", *x0.shape[1:])
        embeds = torch.from_numpy(self._cache.prompt_embeds[prompts.numpy()])
        batch = Batch(x0, noise, sigma, conditioning_mask(conditioned, x0), embeds)
        return Batch(*(tensor.to(position.device) for tensor in vars(batch).values()))

    def loss(self, model: nn.Module, batch: Batch, position: BatchPosition) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = batch.x0 + batch.sigma.view(-1, 1, 1, 1, 1) * batch.noise
        estimate = denoise(
            model,
            noised,
            batch.sigma,
            batch.x0,
            batch.mask,
            batch.prompt_embeds,
            prediction=self._space.prediction,
        )
        loss = denoising_loss(estimate, batch.x0, batch.sigma, batch.mask)
        error = ((estimate - batch.x0).square() * (1 - batch.mask)).detach().mean()
        return loss, {"x0_error": error}
