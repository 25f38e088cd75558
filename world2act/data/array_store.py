"""A content-addressed store of arrays: one file per key, written once, memory-mapped, hard-linked between stores.

A file is a float32 `.npy` at `<first two digits of the key>/<key>.npy`. The content of a store depends neither on its
earlier content nor on the order of writing, and DVC transfers only the files that are new.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_file, read_array, sha256

_KEY = re.compile(r"[0-9a-f]{64}")
_DTYPE = np.dtype("<f4")


class ArrayStore:
    """The float32 arrays in one folder. A key is a sha256 in hexadecimal digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The file of a key. Raises `BadInput` for anything that is not a key, since it could name any file."""
        if not _KEY.fullmatch(key):
            raise BadInput(
                self.folder, "key", repr(key), "64 hexadecimal digits", "run the stage that makes this artifact again"
            )
        return self.folder / key[:2] / f"{key}.npy"

    def put(self, key: str, array: np.ndarray) -> None:
        """Write an array atomically. Raises `BadInput` where a number in it is not finite."""
        if not np.isfinite(array).all():
            found = f"{int((~np.isfinite(array)).sum())} of {array.size} numbers are not finite"
            raise BadInput(self.path(key), "", found, "finite numbers", "check the weights of the model that made it")
        with atomic_file(self.path(key)) as temporary, temporary.open("wb") as stream:
            stream.write(_header(array.shape))
            stream.write(np.ascontiguousarray(array, _DTYPE).data)

    def get(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """A read-only view of an array's file, which stays mapped (but not open) for as long as the view is in use.

        Raises:
            BadInput: it is missing, truncated, or of another shape.
        """
        path, header = self.path(key), _header(shape)
        try:
            with pa.memory_map(str(path)) as stream:
                buffer = stream.read_buffer()
        except OSError as error:
            raise _damaged(path, str(error)) from error
        if buffer.size != len(header) + _DTYPE.itemsize * int(np.prod(shape)) or buffer[: len(header)] != header:
            raise _damaged(path, f"{buffer.size} bytes, or another header", shape)
        return np.frombuffer(buffer, _DTYPE, offset=len(header)).reshape(shape)

    def check_size(self, key: str, shape: tuple[int, ...]) -> None:
        """Check only the length of a key's file. Raises `BadInput` where it does not fit an array of this shape."""
        path = self.path(key)
        try:
            found = path.stat().st_size
        except OSError as error:
            raise _damaged(path, "nothing", shape) from error
        if found != len(_header(shape)) + _DTYPE.itemsize * int(np.prod(shape)):
            raise _damaged(path, f"{found} bytes", shape)

    def holds(self, key: str, shape: tuple[int, ...]) -> bool:
        """Whether the store has the array, undamaged and of this shape."""
        try:
            self.get(key, shape)
        except BadInput:
            return False
        return True

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of the array of a key. Raises `BadInput` where it is missing or damaged."""
        return read_array(self.path(key)).shape

    def digest(self, key: str) -> str:
        """sha256 of the file of a key."""
        return sha256(self.path(key))

    def take(self, key: str, other: ArrayStore) -> None:
        """Add the array of a key from another store: by a hard link where the file system can, else by a copy."""
        target, source = self.path(key), other.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


@lru_cache
def _header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    description = {"descr": _DTYPE.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


def _damaged(path: Path, found: str, shape: tuple[int, ...] | None = None) -> BadInput:
    expected = "a float32 array" if shape is None else f"a float32 array of shape {shape}"
    return BadInput(path, "", found, expected, "run the stage again, which makes the array again; or `dvc checkout`")
