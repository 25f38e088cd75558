"""Observations as arrays, checked against what a policy reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from world2act.core.errors import BadInput
from world2act.policies.robot import KEY
from world2act.sims.base import Observation


def stack_images(observations: Sequence[Observation], cameras: Sequence[str], size: int) -> np.ndarray:
    """The images of B observations, uint8 (B, V, size, size, 3).

    Raises:
        BadInput: a camera is missing, or an image has another size or dtype.
    """
    for observation in observations:
        for camera in cameras:
            image = observation.images.get(camera)
            if image is None:
                raise _unfit(f"images.{camera}", f"cameras {sorted(observation.images)}", f"cameras {list(cameras)}")
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise _unfit(f"images.{camera}", f"{image.dtype} {image.shape}", f"uint8 {(size, size, 3)}")
    return np.stack([np.stack([observation.images[camera] for camera in cameras]) for observation in observations])


def stack_proprio(observations: Sequence[Observation], width: int) -> np.ndarray:
    """The proprioception of B observations, float32 (B, width).

    Raises:
        BadInput: an observation has another width, or is not finite.
    """
    for observation in observations:
        if observation.proprio.shape != (width,) or not np.isfinite(observation.proprio).all():
            raise _unfit("proprio", observation.proprio.tolist(), f"{width} finite numbers")
    return np.stack([observation.proprio for observation in observations]).astype(np.float32)


def _unfit(key: str, found: object, expected: object) -> BadInput:
    return BadInput("an observation", key, found, expected, f"send what the policy's config.json lists under `{KEY}`")
