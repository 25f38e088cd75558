"""Minimum and maximum of a feature over the training split, and the map from that box to [-1, 1] and back.

Written as statistics.json next to a policy's weights, keyed by feature: `{feature: {"min": [...], "max": [...]}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, write_json

ACTION, PROPRIO = "action", "observation.state"
_REMEDY = "restore the policy with `dvc checkout`, or delete it and run `dvc repro` to make it again"


@dataclass(frozen=True)
class MinMax:
    """The box of a feature. `low` and `high` are float32 (D,).

    A dimension that never moves (low == high) maps to 0 and back to its one value, as in Cosmos Policy's guard.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Measure float (N, D) values."""
        return cls(values.min(0).astype(np.float32), values.max(0).astype(np.float32))

    @property
    def _half(self) -> np.ndarray:
        return (self.high - self.low) / 2

    @property
    def _centre(self) -> np.ndarray:
        return (self.high + self.low) / 2

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """float32 (..., D) → the box becomes [-1, 1]; what is outside it is not clipped."""
        half = self._half
        return ((values - self._centre) / np.where(half > 0, half, 1)).astype(np.float32)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `normalise`, except that a dimension that never moved gives its one value."""
        return (values * self._half + self._centre).astype(np.float32)


def write_statistics(path: Path, statistics: Mapping[str, MinMax]) -> None:
    write_json(path, {name: {"min": box.low.tolist(), "max": box.high.tolist()} for name, box in statistics.items()})


def read_statistics(path: Path, widths: Mapping[str, int]) -> dict[str, MinMax]:
    """Read statistics.json.

    Args:
        widths: the features expected, and how many dimensions each has.

    Raises:
        BadInput: the file or a feature is missing, or a feature is not two finite lists of its width, low <= high.
    """
    values = read_json(path)
    statistics = {}
    for name, width in widths.items():
        box = values.get(name, {})
        low, high = (np.asarray(box.get(key, []), np.float32) for key in ("min", "max"))
        whole = low.shape == high.shape == (width,) and np.isfinite([low, high]).all() and (low <= high).all()
        if not whole:
            raise BadInput(path, name, box, f"lists min and max of {width} finite numbers, min <= max", _REMEDY)
        statistics[name] = MinMax(low, high)
    return statistics
