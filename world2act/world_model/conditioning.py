"""Cosmos-Predict2's rectified-flow preconditioning and first-frame conditioning: what the network is fed, and what
its output means. Shapes: latents (B, C, T, h, w), sigma (B,), mask (B, 1, T, 1, 1).

Source: Cosmos-Predict2 as `diffusers.Cosmos2VideoToWorldPipeline` runs it; t = sigma / (1 + sigma).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONDITIONING_SIGMA = 1e-4


def flow_time(sigma: Tensor) -> Tensor:
    """t = sigma / (1 + sigma), in (0, 1)."""
    return sigma / (1 + sigma)


def conditioning_mask(count: int, like: Tensor) -> Tensor:
    """1 on the first `count` latents of each clip, 0 elsewhere: (B, 1, T, 1, 1) for `like` (B, C, T, h, w)."""
    mask = like.new_zeros(len(like), 1, like.shape[2], 1, 1)
    mask[:, :, :count] = 1
    return mask


def network_inputs(noised: Tensor, sigma: Tensor, clean: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The arguments of `CosmosTransformer3DModel` for latents noised as x0 + sigma * noise.

    Where `mask` is 1 the network sees `clean` at the flow time of sigma 1e-4; elsewhere (1 - t) * noised at t.
    """
    t = flow_time(sigma).view(-1, 1, 1, 1, 1)
    still = CONDITIONING_SIGMA / (1 + CONDITIONING_SIGMA)
    batch, _, _, height, width = noised.shape
    return {
        "hidden_states": mask * clean + (1 - mask) * (1 - t) * noised,
        "timestep": mask * still + (1 - mask) * t,
        "condition_mask": mask.expand(batch, 1, -1, height, width),
        "padding_mask": noised.new_zeros(1, 1, height, width),
    }


def denoised(output: Tensor, noised: Tensor, sigma: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """The estimate of x0 that a network output stands for: c_skip * noised + c_out * output with c_skip = 1 - t,
    c_out = -t, so that the output is the velocity noise - x0; conditioning latents are overwritten by `clean`."""
    t = flow_time(sigma).view(-1, 1, 1, 1, 1)
    return mask * clean + (1 - mask) * ((1 - t) * noised - t * output)


def denoise(
    network: nn.Module, noised: Tensor, sigma: Tensor, clean: Tensor, mask: Tensor, prompt_embeds: Tensor
) -> Tensor:
    """One pass of the network: the estimate of x0.

    Args:
        prompt_embeds: (B, L, D).
    """
    # fps stays None: the released checkpoints ignore it, and diffusers' default of 16 would stretch time by 1.5
    inputs = network_inputs(noised, sigma, clean, mask)
    output = network(**inputs, encoder_hidden_states=prompt_embeds, fps=None, return_dict=False)[0]
    return denoised(output, noised, sigma, clean, mask)


class Change:
    """The space that the network works in. Target "change": later latents as their difference from the clip's
    conditioning latent, a channel's differences scaled to unit variance; the conditioning latents stay as they are, so
    that the network sees the scene. Target "latent": the latents themselves (the released checkpoints).

    Args:
        scale: (C,), the standard deviation of the differences; None for the target "latent".
    """

    def __init__(self, scale: Tensor | None) -> None:
        self._scale = None if scale is None else scale.view(1, -1, 1, 1, 1)

    def to_network(self, latents: Tensor) -> Tensor:
        """(B, C, T, h, w) normalised latents → what the network denoises."""
        if self._scale is None:
            return latents
        first = latents[:, :, :1]
        return torch.cat([first, (latents[:, :, 1:] - first) / self._scale.to(latents)], dim=2)

    def to_latents(self, values: Tensor) -> Tensor:
        """The inverse of `to_network`."""
        if self._scale is None:
            return values
        first = values[:, :, :1]
        return torch.cat([first, first + values[:, :, 1:] * self._scale.to(values)], dim=2)
