"""A batch as LeRobot's preprocessor leaves it → world2act's observations, or a `BadInput` that names the key.

    observation.images.CAMERA   float (B, 3, SIZE, SIZE) in [0, 1]
    observation.state           float (B, proprio_dim)
    task                        B instructions

A row is then checked by the same code as a request to `world2act serve`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from torch import Tensor

from world2act.core.errors import BadInput
from world2act.policies.base import Policy
from world2act.serving.observations import TASK, Observations
from world2act.sims.base import Observation

_WHERE = "an observation of LeRobot's"


class BatchReader:
    """Reads batches as one policy wants them; what it does not read is ignored."""

    def __init__(self, policy: Policy) -> None:
        self._rows = Observations(policy)
        self._cameras = [f"{OBS_IMAGES}.{camera}" for camera in policy.cameras]
        self._state = [OBS_STATE] if policy.proprio_dim else []

    def read(self, batch: dict[str, Any]) -> list[Observation]:
        """B observations. Raises `BadInput`."""
        if missing := [key for key in (*self._cameras, *self._state, TASK) if key not in batch]:
            found = ", ".join(sorted(str(key) for key in batch))
            remedy = 'map the names: --rename_map=\'{"observation.images.NAME": "observation.images.CAMERA"}\''
            raise BadInput(_WHERE, ", ".join(missing), f"only {found}", "what the policy was trained on", remedy)
        columns = {key: _pixels(key, batch[key]) for key in self._cameras}
        columns |= {key: _numbers(key, batch[key]) for key in self._state}
        columns[TASK] = [batch[TASK]] if isinstance(batch[TASK], str) else list(batch[TASK])
        if len({len(column) for column in columns.values()}) != 1:
            found = {key: len(column) for key, column in columns.items()}
            raise BadInput(_WHERE, "", found, "as many rows of each", "send one instruction for each observation")
        rows = range(len(columns[TASK]))
        return [self._rows.read({key: column[row] for key, column in columns.items()})[0] for row in rows]


def _pixels(key: str, value: Any) -> np.ndarray:
    """Floats in [0, 1], channels first → uint8 (B, H, W, 3); exact where they came from uint8, as LeRobot's do."""
    expected = "floats (B, 3, H, W) in [0, 1]"
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 4 and value.shape[1] == 3):
        raise BadInput(_WHERE, key, _kind(value), expected, "send pictures as LeRobot's preprocessor leaves them")
    low, high = value.aminmax()
    if not (low >= 0 and high <= 1):
        raise BadInput(_WHERE, key, f"{low:g} to {high:g}", expected, "divide pixels by 255, once, and no more")
    return (value.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _numbers(key: str, value: Any) -> np.ndarray:
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 2):
        remedy = "send the state as LeRobot's preprocessor leaves it"
        raise BadInput(_WHERE, key, _kind(value), "floats (B, proprio_dim)", remedy)
    return value.cpu().numpy()


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
