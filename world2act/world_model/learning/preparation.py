"""What the world model is trained on, and the config.json that says so."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_high
from typing import Any

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.params import WorldModel as WorldModelParams
from world2act.data.latent_cache import Clip, LatentCache
from world2act.world_model.parts.guardrail import guardrail_of

_LEAST_DEVIATION = 0.01


def describe(params: WorldModelParams, cache: LatentCache, clips: Sequence[Clip]) -> dict[str, Any]:
    """The content of config.json: the network's space, the lengths of the skills, the guardrail.

    Raises:
        BadInput: the patches do not tile the latents.
    """
    _, height, width = cache.latent_shape
    if height % params.patch_size or width % params.patch_size:
        raise BadInput(
            "params.yaml",
            "world_model.patch_size",
            params.patch_size,
            f"a divisor of {height} and {width}, the latents' height and width",
            "change it, or the size of the pictures (demos.image_size)",
        )
    lengths = {
        prompt: [clip.latents for clip in clips if clip.prompt == prompt]
        for prompt in sorted({clip.prompt for clip in clips})
    }
    return {
        "target": params.target,
        "prediction": params.prediction,
        **(_statistics(cache, clips) if params.target == "change" else {}),
        "max_latents": params.max_latents,
        "conditioning_latents": params.conditioning_latents,
        "skill_latents": {prompt: median_high(values) for prompt, values in lengths.items()},
        "weights": params.weights,
        "guardrail": guardrail_of(params),
    }


def _statistics(cache: LatentCache, clips: Sequence[Clip]) -> dict[str, Any]:
    """Root mean square of a channel's differences from the first latent; mean and deviation of first latents, each
    value by itself. What no scene changes is held to a hundredth of a latent's usual deviation, and so stays small."""
    first = np.stack([cache.latents(clip)[0] for clip in clips]).astype(np.float64)
    changes = np.concatenate([cache.latents(clip)[1:] - cache.latents(clip)[0] for clip in clips]).astype(np.float64)
    return {
        "change_scale": np.sqrt(np.square(changes).mean((0, 2, 3))).tolist(),
        "first_mean": first.mean(0).tolist(),
        "first_std": np.maximum(first.std(0), _LEAST_DEVIATION).tolist(),
    }
