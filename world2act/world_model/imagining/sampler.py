"""From noise to latents: Karras noise levels, Euler or second-order steps, guidance that keeps the given frames.

Sources: Karras et al. 2022, algorithm 2 without churn, for the levels and order 1; for order 2 the exponential
Adams-Bashforth step of RES (Zhang et al. 2023, arXiv 2308.02157), which Cosmos-Predict2 calls "2ab".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from world2act.core import params
from world2act.world_model.parts.conditioning import Prediction, conditioning_mask, denoise

SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7.0


def karras_sigmas(steps: int, lowest: float = SIGMA_MIN) -> Tensor:
    """`steps` noise levels from 80 down to `lowest`, evenly spaced in sigma^(1/7), float64 (steps,)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = lowest ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (high + ramp * (low - high)) ** RHO


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise from one generator per sample, so that a sample's noise does not depend on its batch.

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
    sampler: params.Sampler,
    prediction: Prediction = "velocity",
) -> Tensor:
    """Denoise clips from Gaussian noise.

    `sampler.steps` passes of the network: all but the last move along the levels from 80 to 0.002, and the estimate of
    the last one is the answer. The released model's "35 steps" are 36 passes.

    Args:
        conditioning: (B, C, k, h, w) clean conditioning latents, in the network's space.
        prompt_embeds: (B, L, D); `no_prompt_embeds` (1, L, D) is the empty prompt's.
        latents: T, of the clips made, conditioning included.
        seeds: one per clip.
        prediction: what the network's output means.

    Returns:
        (B, C, T, h, w), in the network's space; the first k latents are `conditioning`.
    """
    batch, channels, conditioned, height, width = conditioning.shape
    noise = seeded_noise((channels, latents, height, width), seeds).to(conditioning)
    clean = torch.cat([conditioning, torch.zeros_like(noise[:, :, conditioned:])], dim=2)
    # with and without the prompt in one pass; never a pass of one row, whose matrix products round otherwise
    copies = 2 if sampler.guidance or batch == 1 else 1
    prompts = torch.cat([prompt_embeds, no_prompt_embeds.expand(batch, -1, -1)][:copies])
    clean = clean.repeat(copies, 1, 1, 1, 1)
    mask = conditioning_mask(conditioned, clean)
    levels = karras_sigmas(sampler.steps).tolist()
    noised, earlier = noise * levels[0], None

    def estimate_at(level: float) -> Tensor:
        sigma = torch.full((copies * batch,), level).to(conditioning)
        estimates = denoise(
            network, noised.repeat(copies, 1, 1, 1, 1), sigma, clean, mask, prompts, prediction=prediction
        )
        estimate = estimates[:batch]
        if sampler.guidance:
            estimate = estimate + sampler.guidance * (estimate - estimates[batch:])
        return estimate

    for level, (kept, slope) in zip(levels, step_weights(levels, sampler.order), strict=False):
        estimate = estimate_at(level)
        moved = kept * noised + (1 - kept) * estimate
        noised = moved if earlier is None else moved + slope * (estimate - earlier)
        earlier = estimate
    return estimate_at(levels[-1])


def step_weights(levels: Sequence[float], order: int) -> list[tuple[float, float]]:
    """(a, b) of each step between two levels: x' = a x + (1 - a) x0 + b (x0 - the x0 of the level before).

    In time -log(sigma), x relaxes towards x0, which Euler's method holds still over a step (b = 0) and the second order
    extrapolates along a line through the last two levels; x itself decays exactly. The first step is Euler's.
    """
    steps = []
    for i, (level, following) in enumerate(pairwise(levels)):
        kept = following / level
        slope = 0.0
        if order == 2 and i:
            slope = (math.log(level / following) - (1 - kept)) / math.log(levels[i - 1] / level)
        steps.append((kept, slope))
    return steps
