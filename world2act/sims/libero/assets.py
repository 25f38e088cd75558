"""LIBERO's meshes and textures: every result names them, because scores on other assets are not LIBERO scores."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

from world2act.core.errors import BadInput

_FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "turbosquid_objects")
_TEXTURED = ("akita_black_bowl", "basket", "plate")


class Assets(TypedDict):
    """The digest of a folder of assets (paths and contents), how many files, and whether scores on it are LIBERO's."""

    sha256: str
    files: int
    stand_ins: list[str]
    note: str


def check_assets(folder: Path) -> None:
    """Raises `BadInput` if LIBERO's assets are missing, before LIBERO itself would try to download them."""
    missing = [name for name in _FOLDERS if not (folder / name).is_dir()]
    if missing:
        raise BadInput(
            folder,
            "",
            f"no {', '.join(missing)}",
            "LIBERO's assets, which its package does not include",
            "run `make libero WORLD2ACT_LIBERO_ASSETS=/path/to/assets`, or the same with =download",
        )


@cache
def describe_assets(folder: Path) -> Assets:
    """Describe the folder.

    A texture of a single colour is a stand-in: LIBERO's are photographs of the objects.

    Raises:
        BadInput: the assets are missing.
    """
    check_assets(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    digest = hashlib.sha256()
    for path in files:
        digest.update(
            f"{path.relative_to(folder).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    stand_ins = [name for name in _TEXTURED if _is_flat(folder / "stable_scanned_objects" / name / "texture.png")]
    note = "as LIBERO ships them, as far as can be told"
    if stand_ins:
        note = f"NOT LIBERO SCORES: stand-in assets ({', '.join(stand_ins)})"
    return {"sha256": digest.hexdigest(), "files": len(files), "stand_ins": stand_ins, "note": note}


def _is_flat(texture: Path) -> bool:
    from PIL import Image

    if not texture.is_file():
        return False
    with Image.open(texture) as image:
        bands = cast(tuple[tuple[int, int], ...], image.convert("RGB").getextrema())  # a pair per band of RGB
        return all(low == high for low, high in bands)
