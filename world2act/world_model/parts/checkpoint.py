"""Opening weights that were saved elsewhere: every key accounted for, damage named, no code run, one copy in memory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from world2act.core.errors import BadInput


def load_strictly(model_class: Any, folder: Path, remedy: str, dtype: torch.dtype | str = torch.float32) -> Any:
    """Open `folder`, of one safetensors file or of many with their index, as a frozen `model_class`.

    Args:
        model_class: a class with diffusers' or transformers' `from_pretrained`.
        remedy: what the user can do where the folder is missing.
        dtype: of the model; "auto" is the files' own.

    Raises:
        BadInput: the folder is missing, a file is damaged, or a key is missing, unknown or of another shape.
    """
    name = model_class.__name__
    if not (folder / "config.json").is_file():
        raise BadInput(folder, "", "no config.json", f"a {name}, saved by save_pretrained", remedy)
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, "dtype": dtype}
    try:
        model, info = model_class.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise BadInput(folder, "", str(error).splitlines()[0], f"a whole {name} checkpoint", remedy) from error
    faults = [*info["missing_keys"], *info["unexpected_keys"], *info.get("mismatched_keys", [])]
    if faults:
        raise _other_keys(folder, [str(fault) for fault in faults], name)
    return model.eval().requires_grad_(False)


def read_tensors(path: Path) -> dict[str, Any]:
    """The content of a .safetensors, .pt or .pth file, memory-mapped. A pickle is read for its tensors alone: one that
    asks for anything else is refused before anything of it runs.

    Raises:
        BadInput: the file is missing, damaged, holds more than tensors, or is no mapping of names.
    """
    from safetensors.torch import load_file

    expected = "a whole file of tensors (.safetensors, .pt or .pth)"
    if not path.is_file():
        raise BadInput(path, "", "no such file", expected, "correct the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = f"more than tensors: {str(error).splitlines()[0]}"
        raise BadInput(path, "", found, expected, "get the file from its publisher; nothing of it was run") from error
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadInput(path, "", str(error).splitlines()[0], expected, "get the file again") from error
    if not isinstance(content, dict):
        raise BadInput(path, "", type(content).__name__, "names and their tensors", "get the file again")
    return content


def assign_strictly(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> Any:
    """Give a model on the meta device its weights as float32, and freeze it. float32 holds bfloat16 exactly.

    Raises:
        BadInput: a key of `state` is missing, unknown or of another shape.
    """
    wanted, name = model.state_dict(), type(model).__name__
    if faults := sorted(wanted.keys() ^ state.keys()):
        raise _other_keys(path, faults, name)
    for key, tensor in wanted.items():
        if state[key].shape != tensor.shape:
            found, expected = tuple(state[key].shape), tuple(tensor.shape)
            raise BadInput(path, key, f"shape {found}", f"shape {expected}", "use a checkpoint of this architecture")
    copies = {key: state[key].to(torch.float32, copy=True) for key in wanted}
    model.load_state_dict(copies, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _other_keys(where: Path, faults: list[str], name: str) -> BadInput:
    found = f"{len(faults)} keys do not match"
    return BadInput(where, faults[0], found, f"the keys of {name}", "use a checkpoint of this class")
