"""Measurements of artifacts that several gates need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, read_tensors


@dataclass(frozen=True)
class Weight:
    """One tensor of a model. `largest`: the largest magnitude of its finite values."""

    file: str
    tensor: str
    finite: bool
    largest: float


def readable(pixels: np.ndarray, targets: np.ndarray, folds: int = 5) -> np.ndarray:
    """How well targets can be read from pictures: R² of ridge regression, on pictures that it was not fitted to.

    Args:
        pixels: (N, P).
        targets: (N, K); every column varies.

    Returns:
        (K,): 1 is perfect, 0 is no better than the mean.
    """
    fold = np.arange(len(pixels)) % folds
    predicted = np.empty(targets.shape)
    for left_out in range(folds):
        fit, test = fold != left_out, fold == left_out
        mean, center = pixels[fit].mean(0), targets[fit].mean(0)
        x = (pixels[fit] - mean).astype(np.float64)
        kernel = x @ x.T
        kernel[np.diag_indices_from(kernel)] += 1e-2 * np.trace(kernel) / len(kernel)
        weights = np.linalg.solve(kernel, targets[fit] - center)
        predicted[test] = center + (pixels[test] - mean) @ x.T @ weights
    return 1 - ((targets - predicted) ** 2).sum(0) / ((targets - targets.mean(0)) ** 2).sum(0)


def is_finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())


def has_weights(policy: Path) -> bool:
    """Whether a policy's folder holds weights and statistics: the folder of a remote policy holds neither."""
    return read_json(policy / "config.json")["family"] != "remote"


def weight_rows(directory: Path, files: Sequence[str]) -> list[Weight]:
    """One row per tensor of the safetensors files that match the patterns: finite or not, and its largest magnitude.

    Raises:
        BadInput: a pattern matches no file, or a file is truncated.
    """
    rows = []
    for pattern in files:
        matching = sorted(directory.glob(pattern))
        if not matching:
            remedy = "run the stage that writes it: `dvc repro`, or `dvc pull`"
            raise BadInput(directory / pattern, "", "no such file", "safetensors weights", remedy)
        for file in matching:
            rows += [
                Weight(file.relative_to(directory).as_posix(), name, is_finite(values), _largest(values))
                for name, values in read_tensors(file).items()
            ]
    return rows


def _largest(values: np.ndarray) -> float:
    """The largest magnitude of the finite values; another check covers values that are not finite."""
    return float(np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=0.0))
