"""Messages between two processes over a socket: JSON, followed by the bytes of its arrays. No pickle.

A frame is the length of the header (4 bytes, big-endian), the header (JSON: the value, with `{"array": i}` for the
i-th array, and each array's dtype and shape), then the arrays' bytes in C order. Numbers arrive exactly as sent, and
tuples as tuples. A dataclass of this package travels as the name of its class and its fields.
"""

from __future__ import annotations

import importlib
import json
import math
import socket
import struct
from dataclasses import fields, is_dataclass

import numpy as np

_LENGTH = struct.Struct(">I")
_KINDS = "biuf"


def send(connection: socket.socket, value: object) -> None:
    """Send a value of None, booleans, numbers, strings, lists, tuples, dicts with string keys, numeric arrays, and
    dataclasses of these.

    Raises:
        TypeError: it holds something else.
        OSError: the other side is gone, or does not read.
    """
    arrays: list[np.ndarray] = []
    plain = _to_json(value, arrays)
    header = {"value": plain, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
    text = json.dumps(header, separators=(",", ":")).encode()
    connection.sendall(b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays)]))


def receive(connection: socket.socket) -> object:
    """Receive the next value.

    Raises:
        EOFError: the other side has closed the connection, or died.
        TimeoutError: nothing came within the connection's timeout.
        ValueError: it holds an array that is not numeric, or a class that is not a dataclass of this package.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    header = json.loads(_read(connection, length))
    return _from_json(
        header["value"], [_array(connection, np.dtype(dtype), shape) for dtype, shape in header["arrays"]]
    )


def _array(connection: socket.socket, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    if dtype.kind not in _KINDS:
        raise ValueError(f"a message holds an array of {dtype}")
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


def _to_json(value: object, arrays: list[np.ndarray]) -> object:
    """`value` as JSON has it, with every array moved to `arrays`."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        return {"dict": {key: _to_json(item, arrays) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_to_json(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_to_json(item, arrays) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        content = {field.name: _to_json(getattr(value, field.name), arrays) for field in fields(value)}
        return {"dataclass": [kind.__module__, kind.__qualname__], "fields": content}
    return value


def _from_json(value: object, arrays: list[np.ndarray]) -> object:
    """The inverse of `_to_json`."""
    if isinstance(value, list):
        return [_from_json(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_from_json(item, arrays) for item in value["tuple"])
    if "dataclass" in value:
        kind = _dataclass(*value["dataclass"])
        return kind(**{key: _from_json(item, arrays) for key, item in value["fields"].items()})
    return {key: _from_json(item, arrays) for key, item in value["dict"].items()}


def _dataclass(module: str, name: str) -> type:
    if module.split(".")[0] == "world2act":
        kind = getattr(importlib.import_module(module), name, None)
        if isinstance(kind, type) and is_dataclass(kind):
            return kind
    raise ValueError(f"a message holds a {module}.{name}, which is not a dataclass of world2act")
