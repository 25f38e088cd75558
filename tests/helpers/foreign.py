"""Demonstrations that other software wrote (tests/data), unpacked for a test."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

from tests.helpers.paths import DATA


def unpacked(name: str, folder: Path) -> Path:
    """A copy of tests/data/`name` in `folder` that a test may damage, HDF5 files uncompressed."""
    target = folder / name
    shutil.copytree(DATA / name, target)
    for packed in target.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    return target
