"""What comes with NVIDIA's Cosmos Policy checkpoints in addition to the weights: their statistics and their prompts.

The weights are `CosmosTransformer3DModel`'s in NVIDIA's own layout: `build_transformer` opens them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world2act.core.errors import BadInput
from world2act.core.storage import read_json
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax

_NAMES = {ACTION: "actions", PROPRIO: "proprio"}
_ALLOWED = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("collections", "OrderedDict"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def read_nvidia_statistics(path: Path, widths: Mapping[str, int]) -> dict[str, MinMax]:
    """Read a dataset_statistics.json: `actions_min`, `actions_max`, `proprio_min`, `proprio_max`.

    Args:
        widths: feature → how many numbers of it the network sees.

    Raises:
        BadInput: the file or a key is missing, or its numbers are another interface's.
    """
    values = read_json(path)
    statistics = {}
    for feature, width in widths.items():
        keys = [f"{_NAMES[feature]}_{end}" for end in ("min", "max")]
        if missing := [key for key in keys if key not in values]:
            remedy = "use the dataset_statistics.json that came with the weights"
            raise BadInput(path, missing[0], f"keys {sorted(values)}", "this key", remedy)
        low, high = (np.asarray(values[key], np.float32) for key in keys)
        if low.shape != (width,) or high.shape != (width,):
            found, expected = f"shapes {low.shape} and {high.shape}", f"the {width} of this interface"
            raise BadInput(path, keys[0], found, expected, "name the interface of these weights")
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise BadInput(path, keys[0], values[keys[0]], "finite numbers, min <= max", "get the file again")
        statistics[feature] = MinMax(low, high)
    return statistics


def read_nvidia_prompts(source: Path) -> dict[str, np.ndarray]:
    """The pickle of T5 embeddings, {instruction: (1, L, D) or (L, D)}, as float32 (L, D) each.

    It is read by an unpickler that builds tensors and arrays and nothing else: no code of it runs.

    Raises:
        BadInput: the pickle asks for anything else, or is no mapping of instructions to embeddings.
    """
    expected, remedy = "a pickle of {instruction: embedding}, tensors or arrays", "get the file from its publisher"
    try:
        with source.open("rb") as stream:
            values = _TensorUnpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        raise BadInput(
            source, "", str(error).partition("\n")[0], expected, f"{remedy}; nothing of it was run"
        ) from error
    except FileNotFoundError as error:
        raise BadInput(source, "", "no such file", expected, "correct the path") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values) or not values:
        raise BadInput(source, "", type(values).__name__, expected, remedy)
    embeddings = {}
    for text, value in values.items():
        tensor = torch.as_tensor(value) if isinstance(value, (Tensor, np.ndarray)) else None
        if tensor is None or tensor.ndim not in (2, 3) or (tensor.ndim == 3 and len(tensor) != 1):
            found = type(value).__name__ if tensor is None else tuple(tensor.shape)
            raise BadInput(source, text, found, "an embedding (L, D)", remedy)
        embeddings[text] = tensor.reshape(tensor.shape[-2:]).float().numpy()
    return embeddings


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _load_storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
