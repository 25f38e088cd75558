"""Messages between two processes over a socket: JSON with the bytes of its arrays behind it. No pickle.

A frame is the length of the header (4 bytes, big-endian), the header (JSON: the value, with `{"array": i}` for the
i-th array, and each array's dtype and shape), then the arrays' bytes in C order. Numbers arrive exactly as sent.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct(">I")
_KINDS = "biuf"


def send(connection: socket.socket, value: Any) -> None:
    """Send a value of None, booleans, numbers, strings, lists, tuples, dicts with string keys, and numeric arrays.

    Raises:
        TypeError: it holds something else.
        OSError: the other side is gone, or does not read.
    """
    arrays: list[np.ndarray] = []
    value = _strip(value, arrays)
    header = {"value": value, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
    text = json.dumps(header, separators=(",", ":")).encode()
    connection.sendall(b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays)]))


def receive(connection: socket.socket) -> Any:
    """Receive the next value; tuples arrive as lists.

    Raises:
        EOFError: the other side has closed the connection, or died.
        TimeoutError: nothing came within the connection's timeout.
        ValueError: it holds an array that is not numeric.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    header = json.loads(_read(connection, length))
    return _fill(header["value"], [_array(connection, np.dtype(dtype), shape) for dtype, shape in header["arrays"]])


def _array(connection: socket.socket, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of {dtype} in a message")
    return np.frombuffer(_read(connection, dtype.itemsize * math.prod(shape)), dtype).reshape(shape)


def _read(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        received = connection.recv_into(view[done:])
        if not received:
            raise EOFError("the connection was closed")
        done += received
    return data


def _strip(value: Any, arrays: list[np.ndarray]) -> Any:
    """`value` with every array moved to `arrays`."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        return {"dict": {key: _strip(each, arrays) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [_strip(each, arrays) for each in value]
    return value


def _fill(value: Any, arrays: list[np.ndarray]) -> Any:
    """The inverse of `_strip`."""
    if isinstance(value, list):
        return [_fill(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    return {key: _fill(each, arrays) for key, each in value["dict"].items()}
