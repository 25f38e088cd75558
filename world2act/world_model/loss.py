"""The world model's training objective: denoising of skill clips, padding and conditioning latents left out.

The input is the latent cache; the clips are those of video-only training episodes, so that clips with actions stay
unseen. A batch holds clips of one length, drawn in proportion to how many there are: Cosmos' self-attention takes
no padding mask, and so nothing is ever padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from world2act.data.latent_cache import Clip, LatentCache
from world2act.training.objective import Place
from world2act.world_model.conditioning import Change, conditioning_mask, denoise

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
    """Draws clips of one length, drops a share of the prompts, noises the rest of the clip behind its first latents.

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
        space: Change,
        *,
        conditioning_latents: Sequence[int],
        text_dropout: float,
        high_sigma_share: float,
        seed: int,
    ) -> None:
        self.model = network
        self._no_prompt, self._embeds = cache.no_prompt, torch.from_numpy(np.array(cache.prompt_embeds))
        self._conditioning_latents, self._seed = conditioning_latents, seed
        self._text_dropout, self._high_sigma_share = text_dropout, high_sigma_share
        self._lengths = [clip.latents for clip in clips]
        self._clips: dict[int, tuple[Tensor, Tensor]] = {}
        for length in sorted(set(self._lengths)):
            same = [clip for clip in clips if clip.latents == length]
            latents = torch.from_numpy(np.stack([cache.latents(clip) for clip in same])).transpose(1, 2)
            self._clips[length] = (space.to_network(latents), torch.tensor([clip.prompt_row for clip in same]))

    def batch(self, place: Place) -> Batch:
        # every rank draws the same length, so that none waits for another
        shared = torch.Generator().manual_seed(self._seed * 1_000_003 + place.step)
        latents = self._lengths[int(torch.randint(len(self._lengths), (), generator=shared))]
        count = self._conditioning_latents[int(torch.randint(len(self._conditioning_latents), (), generator=shared))]
        values, prompts = self._clips[latents]
        drawn = torch.randint(len(values), (place.batch_size,), generator=place.generator)
        dropped = torch.rand(place.batch_size, generator=place.generator) < self._text_dropout
        x0, rows = values[drawn], torch.where(dropped, self._no_prompt, prompts[drawn])
        noise = torch.randn(x0.shape, generator=place.generator)
        sigma = draw_sigma(place.batch_size, latents, self._high_sigma_share, place.generator)
        batch = Batch(x0, noise, sigma, conditioning_mask(count, x0), self._embeds[rows])
        return Batch(*(tensor.to(place.device) for tensor in vars(batch).values()))

    def loss(self, model: nn.Module, batch: Batch, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = batch.x0 + batch.sigma.view(-1, 1, 1, 1, 1) * batch.noise
        estimate = denoise(model, noised, batch.sigma, batch.x0, batch.mask, batch.prompt_embeds)
        loss = denoising_loss(estimate, batch.x0, batch.sigma, batch.mask)
        error = ((estimate - batch.x0).square() * (1 - batch.mask)).detach().mean()
        return loss, {"x0_error": error}
