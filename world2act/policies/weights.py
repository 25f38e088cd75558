"""A policy's model.safetensors: written whole, read with every key accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.storage import read_tensors, write_tensors

_REMEDY = "restore it with `dvc checkout`, or delete the directory and run `dvc repro` to make it again"


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    write_tensors(path, {key: value.contiguous().numpy() for key, value in weights.items()})


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model`. Raises `BadInput` where the tensors are not exactly those of `model`, by name and shape."""
    weights = read_tensors(path)
    found = {key: tuple(value.shape) for key, value in weights.items()}
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if wrong:
        raise BadInput(path, wrong[0], found.get(wrong[0]), expected.get(wrong[0]), _REMEDY)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
