"""A network's weights in one safetensors file, or in several with their index, as Hugging Face's hub holds them.

model.safetensors, or model-00001-of-0000N.safetensors ... and model.safetensors.index.json. Nothing of a file is read
before all names and shapes are known to fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.storage import read_json

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_FETCH = "get the files again, all of one version; an artifact of this workspace with `dvc checkout`"
_NOTHING_MORE = re.compile("(?!)")
_Network = TypeVar("_Network", bound=nn.Module)


def save(directory: Path, weights: Mapping[str, Tensor], shard_size: str = "5GB") -> None:
    """Write weights into an existing directory that has none."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(dict(weights), directory, max_shard_size=shard_size)


def open_network(
    build: Callable[[], _Network], folder: Path, dtype: torch.dtype, unused: re.Pattern[str] = _NOTHING_MORE
) -> _Network:
    """What `build` gives, with a folder's weights in place of those that it draws, and no second copy in memory.

    Raises:
        BadInput: as `load` does.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network = build()
    load(network, folder, dtype, unused)
    return network


def load(model: nn.Module, folder: Path, dtype: torch.dtype, unused: re.Pattern[str] = _NOTHING_MORE) -> None:
    """Fill `model`, which may be on the meta device, shard by shard.

    Args:
        dtype: of the weights from now on; float32 holds bfloat16 exactly.
        unused: the names of tensors that the folder may hold in addition to those of `model`.

    Raises:
        BadInput: a file is missing, damaged or not in the index; a tensor is missing, unknown or of another shape.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found, files = read_shapes(folder)
    for key in sorted(wanted.keys() | found.keys()):
        if found.get(key) != wanted.get(key) and not (key not in wanted and unused.fullmatch(key)):
            where, shape = files.get(key, folder), found.get(key, "no such tensor")
            expected = wanted.get(key, f"no such tensor in a {type(model).__name__} of these sizes")
            raise BadInput(where, key, shape, expected, "use weights of this architecture with their own config.json")
    for file in sorted(set(files.values())):
        with safe_open(file, framework="pt") as shard:
            keys = [key for key in shard.keys() if key in wanted]  # noqa: SIM118  safe_open is no mapping
            tensors = {key: shard.get_tensor(key).to(dtype, copy=True) for key in keys}
        model.load_state_dict(tensors, strict=False, assign=True)


def read_shapes(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """The shape of every tensor in a folder, and the file that it is in. Raises `BadInput` as `load` does."""
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    for file, names in _files(folder).items():
        try:
            with safe_open(file, framework="pt") as shard:
                held = {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadInput(file, "", str(error), "a whole safetensors file", _FETCH) from error
        if names is not None and (strangers := sorted(held.keys() ^ names)):
            here, there = (
                ("in the index", "in this file") if strangers[0] in names else ("in this file", "in the index")
            )
            raise BadInput(file, strangers[0], f"a tensor that is {here} and not {there}", "one in both", _FETCH)
        shapes |= held
        files |= dict.fromkeys(held, file)
    return shapes, files


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """Each file of weights and the names that the index gives it."""
    index = folder / _INDEX
    files: dict[Path, set[str] | None] = {}
    if index.exists():
        for key, name in _weight_map(index).items():
            if not isinstance(name, str) or not _SHARD.fullmatch(name):
                raise BadInput(index, f"weight_map.{key}", name, "the name of a safetensors file next to it", _FETCH)
            files.setdefault(folder / name, set()).add(key)  # type: ignore[union-attr]
    else:
        files[folder / _WHOLE] = None
    for file in files:
        if not file.is_file():
            named = f"{len(files)} files named in {_INDEX}" if index.exists() else f"this file, or {_INDEX}"
            raise BadInput(file, "", "no such file", named, _FETCH)
    if strangers := sorted(set(folder.glob("model*.safetensors")) - files.keys()):
        raise BadInput(strangers[0], "", "a file of weights that the index does not name", "no such file", _FETCH)
    return files


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise BadInput(index, "weight_map", found, "the file of each tensor, by its name", _FETCH)
    return found
