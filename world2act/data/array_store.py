"""Arrays by the content they were made from: one file a key, written once, memory-mapped, linked from folder to folder.

A file is a `.npy` of float32 at `<first two digits of the key>/<key>.npy`. What a folder holds does not depend on what
was in it before, or on the order in which arrays came, and DVC moves only the files that are new.
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
    """The arrays in one folder, float32, by keys: sha256 in hexadecimal digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the array of a key lies. Raises `BadInput` for what is no key, and could name any file."""
        if not _KEY.fullmatch(key):
            raise BadInput(self.folder, "key", repr(key), "64 hexadecimal digits", "make the artifact anew")
        return self.folder / key[:2] / f"{key}.npy"

    def put(self, key: str, array: np.ndarray) -> None:
        """Write an array, whole or not at all. Raises `BadInput` where a number in it is not finite."""
        if not np.isfinite(array).all():
            found = f"{int((~np.isfinite(array)).sum())} of {array.size} numbers not finite"
            raise BadInput(self.path(key), "", found, "finite numbers", "look at the weights of the model that made it")
        with atomic_file(self.path(key)) as temporary, temporary.open("wb") as stream:
            stream.write(_header(array.shape))
            stream.write(np.ascontiguousarray(array, _DTYPE).data)

    def get(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array, read-only: a view of its file, which stays mapped, and no file open, as long as it is in use.

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
        """Raise `BadInput` where the file of a key is missing, or not as long as an array of this shape. Cheap."""
        path = self.path(key)
        try:
            found = path.stat().st_size
        except OSError as error:
            raise _damaged(path, "nothing", shape) from error
        if found != len(_header(shape)) + _DTYPE.itemsize * int(np.prod(shape)):
            raise _damaged(path, f"{found} bytes", shape)

    def holds(self, key: str, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape is there, whole."""
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
        """Bring the array of a key in from another store: the same file under a second name, where the disk can."""
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
    expected = f"a float32 array {'' if shape is None else shape}".strip()
    return BadInput(path, "", found, expected, "run the stage again, which makes it anew; or `dvc checkout`")
