"""openpi's messages: msgpack, arrays as {b"__ndarray__": True, b"data", b"dtype", b"shape"}, no pickle, no objects.

Source: openpi_client/msgpack_numpy.py of Physical Intelligence's openpi. What comes in may come from anybody: dtypes,
shapes and the number of things in a message are checked before anything is built of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgpack
import numpy as np

_KINDS = "biuf"
# openpi's observations hold about ten keys; a message of empty lists would take many times its size in memory
_MAX_CONTAINERS = _MAX_LENGTH = 1024


class Packer:
    """Packs one message after the other into the same buffer; for one thread."""

    def __init__(self) -> None:
        self._packer = msgpack.Packer(default=_encode)

    def pack(self, value: Any) -> bytes:
        """Bytes of None, booleans, numbers, strings, bytes, lists, tuples, dicts and numeric arrays.

        Raises:
            TypeError: it holds something else.
        """
        return self._packer.pack(value)


def pack(value: Any) -> bytes:
    """See `Packer.pack`."""
    return Packer().pack(value)


def unpack(data: bytes) -> Any:
    """The inverse of `pack`; tuples arrive as lists, arrays read-only.

    Raises:
        ValueError: it is not msgpack, or holds an array that is not numeric or not whole, or too many things.
    """
    containers = 0

    def count(value: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > _MAX_CONTAINERS:
            raise ValueError(f"more than {_MAX_CONTAINERS} maps and lists in a message")
        return _decode(value) if isinstance(value, dict) else value

    try:
        return msgpack.unpackb(
            data, object_hook=count, list_hook=count, max_map_len=_MAX_LENGTH, max_array_len=_MAX_LENGTH
        )
    except (TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(str(error)) from error


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    if value.dtype.kind not in _KINDS:
        raise TypeError(f"an array of {value.dtype} cannot be sent")
    if isinstance(value, np.generic):
        return value.item()
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        shape, data = value.get(b"shape"), value.get(b"data")
        if isinstance(shape, list) and isinstance(data, bytes):
            # it raises a ValueError or TypeError for a shape that there cannot be, or that needs more than there is
            array = np.ndarray(shape, _numeric(value.get(b"dtype")), data)
            if array.nbytes == len(data):
                return array
        raise ValueError("an array whose bytes are not those of its dtype and shape")
    if b"__npgeneric__" in value:
        number = value.get(b"data")
        if isinstance(number, str):
            return number
        return _numeric(value.get(b"dtype")).type(number)
    return value


@lru_cache(64)
def _numeric(name: Any) -> np.dtype:
    text = name.decode() if isinstance(name, bytes) else name
    dtype = np.dtype(text) if isinstance(text, str) else np.dtype(object)
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of {dtype} in a message")
    return dtype
