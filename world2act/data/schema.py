"""Features of a LeRobot v3.0 dataset → the arrow schema of its data files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_PNG = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_LANGUAGE = {  # a row of LeRobot's column of annotations
    "role": pa.string(),
    "content": pa.string(),
    "style": pa.string(),
    "timestamp": pa.float32(),
    "camera": pa.string(),
    "tool_calls": pa.list_(pa.string()),
}
INDICES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def data_schema(features: Mapping[str, dict[str, Any]]) -> pa.Schema:
    """The arrow schema, and the metadata by which the `datasets` library knows images from structs."""
    scalars = {name: {"dtype": dtype, "shape": [1]} for name, dtype in INDICES.items()}
    kinds = {name: _column(feature) for name, feature in ({**features} | scalars).items()}
    huggingface = json.dumps({"info": {"features": {name: kind for name, (_, kind) in kinds.items()}}}, sort_keys=True)
    return pa.schema([pa.field(name, kind) for name, (kind, _) in kinds.items()], {"huggingface": huggingface})


def _column(feature: Mapping[str, Any]) -> tuple[pa.DataType, dict[str, Any]]:
    """The arrow type of a feature's column, and what the `datasets` library calls it."""
    dtype, width = feature["dtype"], feature["shape"][0]
    if dtype == "image":
        return _PNG, {"_type": "Image"}
    if dtype == "language":
        row: dict[str, Any] = {name: {"_type": "Value", "dtype": str(kind)} for name, kind in _LANGUAGE.items()}
        row |= {"timestamp": _value("float32"), "tool_calls": {"_type": "List", "feature": _value("string")}}
        return pa.list_(pa.struct(list(_LANGUAGE.items()))), {"_type": "List", "feature": row}
    number = pa.bool_() if dtype == "bool" else pa.type_for_alias(dtype)
    if width == 1:
        return number, _value(dtype)
    return pa.list_(number, width), {"_type": "Sequence", "feature": _value(dtype), "length": width}


def _value(dtype: str) -> dict[str, str]:
    return {"_type": "Value", "dtype": dtype}
