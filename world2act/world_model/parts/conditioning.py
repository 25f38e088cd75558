"""Cosmos-Predict2's rectified-flow preconditioning and first-frame conditioning: what the network is fed, and what
its output means. Shapes: latents (B, C, T, h, w), sigma (B,), mask (B, 1, T, 1, 1).

Source: Cosmos-Predict2 as `diffusers.Cosmos2VideoToWorldPipeline` runs it; t = sigma / (1 + sigma).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

CONDITIONING_SIGMA = 1e-4
Prediction = Literal["velocity", "clean"]


def flow_time(sigma: Tensor) -> Tensor:
    """t = sigma / (1 + sigma), in (0, 1)."""
    return sigma / (1 + sigma)


def conditioning_mask(count: int, like: Tensor) -> Tensor:
    """1 on the first `count` latents of each clip, 0 elsewhere: (B, 1, T, 1, 1) for `like` (B, C, T, h, w)."""
    mask = like.new_zeros(len(like), 1, like.shape[2], 1, 1)
    mask[:, :, :count] = 1
    return mask


def network_inputs(
    noised: Tensor, sigma: Tensor, clean: Tensor, mask: Tensor, conditioning_sigma: float = CONDITIONING_SIGMA
) -> dict[str, Tensor]:
    """The arguments of `CosmosTransformer3DModel` for latents noised as x0 + sigma * noise.

    Where `mask` is 1 the network sees `clean` at the flow time of `conditioning_sigma`; elsewhere, at t,
    (1 - t) * noised.
    """
    t = flow_time(sigma).view(-1, 1, 1, 1, 1)
    still = conditioning_sigma / (1 + conditioning_sigma)
    batch, _, _, height, width = noised.shape
    return {
        "hidden_states": mask * clean + (1 - mask) * (1 - t) * noised,
        "timestep": mask * still + (1 - mask) * t,
        "condition_mask": mask.expand(batch, 1, -1, height, width),
        "padding_mask": noised.new_zeros(1, 1, height, width),
    }


def denoised(
    output: Tensor, noised: Tensor, sigma: Tensor, clean: Tensor, mask: Tensor, prediction: Prediction = "velocity"
) -> Tensor:
    """The estimate of x0 that a network output represents; conditioning latents are overwritten by `clean`.

    Args:
        prediction: "velocity" as the released checkpoints: the output is noise - x0, so that the estimate is
            c_skip * noised + c_out * output with c_skip = 1 - t, c_out = -t. "clean": the output is the estimate. A
            velocity holds all of the noise, so a network whose tokens have more values than its hidden state cannot
            say it; clean latents occupy few dimensions (Li & He 2025, arXiv 2511.13720).
    """
    t = flow_time(sigma).view(-1, 1, 1, 1, 1)
    estimate = output if prediction == "clean" else (1 - t) * noised - t * output
    return mask * clean + (1 - mask) * estimate


def denoise(
    network: nn.Module,
    noised: Tensor,
    sigma: Tensor,
    clean: Tensor,
    mask: Tensor,
    prompt_embeds: Tensor,
    conditioning_sigma: float = CONDITIONING_SIGMA,
    prediction: Prediction = "velocity",
) -> Tensor:
    """One pass of the network: the estimate of x0.

    Args:
        prompt_embeds: (B, L, D).
    """
    # fps stays None: the released checkpoints ignore it, and diffusers' default of 16 would stretch time by 1.5
    inputs = network_inputs(noised, sigma, clean, mask, conditioning_sigma)
    output = network(**inputs, encoder_hidden_states=prompt_embeds, fps=None, return_dict=False)[0]
    return denoised(output, noised, sigma, clean, mask, prediction)


@dataclass(frozen=True)
class ChangeStatistics:
    """How the training clips' latents vary, by which target "change" scales them.

    Attributes:
        scale: (1, C, 1, 1, 1), the standard deviation of the differences from a clip's first latent.
        mean, std: (1, C, 1, h, w), of first latents.
    """

    scale: Tensor
    mean: Tensor
    std: Tensor

    def to(self, like: Tensor) -> ChangeStatistics:
        """The same on the device and in the number format of `like`."""
        return ChangeStatistics(self.scale.to(like), self.mean.to(like), self.std.to(like))


@dataclass(frozen=True)
class LatentSpace:
    """The space that the network works in.

    Target "change": later latents as their difference from the clip's first one, each channel's differences scaled to
    unit variance, and the first one itself standardised, each of its values over the training clips. What differs
    between scenes is a small part of a latent, and it must be large to be learnt. Target "latent": the latents
    themselves, as in the released checkpoints.

    Attributes:
        change: None for the target "latent".
        prediction: what the network's output means, as in `denoised`.
    """

    change: ChangeStatistics | None = None
    prediction: Prediction = "velocity"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From `target`, `prediction`, `change_scale` (C,), `first_mean` and `first_std` (C, h, w) of config.json."""
        if config["target"] == "latent":
            return cls(prediction=config["prediction"])
        scale, mean, std = (torch.tensor(config[key]) for key in ("change_scale", "first_mean", "first_std"))
        statistics = ChangeStatistics(scale.view(1, -1, 1, 1, 1), mean[None, :, None], std[None, :, None])
        return cls(statistics, config["prediction"])

    def to_network(self, latents: Tensor) -> Tensor:
        """(B, C, T, h, w) normalised latents → what the network denoises."""
        if self.change is None:
            return latents
        first, change = latents[:, :, :1], self.change.to(latents)
        scene = (first - change.mean) / change.std
        return torch.cat([scene, (latents[:, :, 1:] - first) / change.scale], dim=2)

    def to_latents(self, values: Tensor) -> Tensor:
        """The inverse of `to_network`."""
        if self.change is None:
            return values
        change = self.change.to(values)
        first = values[:, :, :1] * change.std + change.mean
        return torch.cat([first, first + values[:, :, 1:] * change.scale], dim=2)
