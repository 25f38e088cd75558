"""Opening a diffusers or transformers folder: nothing downloaded, every key accounted for, damage named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from world2act.errors import BadInput


def load_strictly(model_class: Any, folder: Path, remedy: str) -> Any:
    """Open `folder` as a frozen `model_class`.

    Args:
        model_class: a class with diffusers' or transformers' `from_pretrained`.
        remedy: what the user can do where the folder is missing.

    Raises:
        BadInput: the folder is missing, a file is damaged, or a key is missing, unknown or of another shape.
    """
    name = model_class.__name__
    if not (folder / "config.json").is_file():
        raise BadInput(folder, "", "no config.json", f"a {name}, saved by save_pretrained", remedy)
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        model, info = model_class.from_pretrained(folder, **options)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise BadInput(folder, "", str(error).splitlines()[0], f"a whole {name} checkpoint", remedy) from error
    faults = [*info["missing_keys"], *info["unexpected_keys"], *info.get("mismatched_keys", [])]
    if faults:
        found = f"{len(faults)} keys do not match"
        raise BadInput(folder, str(faults[0]), found, f"the keys of {name}", "use a checkpoint of this class")
    return model.eval().requires_grad_(False)
