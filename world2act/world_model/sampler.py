"""From noise to latents: Karras noise levels, Euler steps, classifier-free guidance that keeps the frames.

Source: Karras et al. 2022, algorithm 2 without churn; Cosmos-Predict2's levels and guidance form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from world2act.world_model.conditioning import conditioning_mask, denoise

SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7.0


def karras_sigmas(steps: int) -> Tensor:
    """`steps` noise levels from 80 down to 0.002, evenly spaced in sigma^(1/7), float32 (steps,)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return ((high + ramp * (low - high)) ** RHO).float()


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise, one generator a sample, so that a sample's noise does not depend on its batch.

    Args:
        shape: of one sample.
    """
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    network: nn.Module,
    conditioning: Tensor,
    prompt_embeds: Tensor,
    no_prompt_embeds: Tensor,
    *,
    latents: int,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
) -> Tensor:
    """Denoise clips from Gaussian noise.

    Args:
        conditioning: (B, C, k, h, w) clean conditioning latents, in the network's space.
        prompt_embeds: (B, L, D); `no_prompt_embeds` (1, L, D) is the empty prompt's.
        latents: T, of the clips made, conditioning included.
        seeds: one a clip.
        guidance: g in c + g * (c - u); at 0 the unconditional pass is left out.

    Returns:
        (B, C, T, h, w), in the network's space; the first k latents are `conditioning`.
    """
    batch, channels, count, height, width = conditioning.shape
    noise = seeded_noise((channels, latents, height, width), seeds).to(conditioning)
    clean = torch.cat([conditioning, torch.zeros_like(noise[:, :, count:])], dim=2)
    mask = conditioning_mask(count, clean)
    sigmas = karras_sigmas(steps).to(conditioning)
    unconditional = no_prompt_embeds.expand(batch, -1, -1)
    noised = noise * sigmas[0]
    for sigma, following in zip(sigmas, [*sigmas[1:], None], strict=True):
        level = sigma.expand(batch)
        estimate = denoise(network, noised, level, clean, mask, prompt_embeds)
        if guidance:
            estimate = estimate + guidance * (estimate - denoise(network, noised, level, clean, mask, unconditional))
        # the last estimate is the answer: a step from 0.002 to 0 along it would only return it
        noised = estimate if following is None else estimate + (noised - estimate) * (following / sigma)
    return noised
