"""The features of a LeRobot v3.0 dataset, and the arrow schema of its data files that follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict

import pyarrow as pa

IMAGES = "observation.images."
"""Prefix of the features that hold a camera's frames."""
LANGUAGE = "language_persistent"
"""LeRobot's column of annotations: the same rows in every frame of an episode."""
INDICES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""The columns that every dataset has, with their dtypes."""

_PNG = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_LANGUAGE = {
    "role": pa.string(),
    "content": pa.string(),
    "style": pa.string(),
    "timestamp": pa.float32(),
    "camera": pa.string(),
    "tool_calls": pa.list_(pa.string()),
}


class Feature(TypedDict):
    """One feature as meta/info.json describes it. `dtype` is "image", "language" or a numeric type."""

    dtype: str
    names: list[str] | None
    shape: list[int]


class StoredImage(TypedDict):
    """One frame in a data file: a PNG."""

    bytes: bytes
    path: str


class LanguageRow(TypedDict):
    """One row of LeRobot's column `language_persistent`."""

    role: str
    content: str
    style: str
    timestamp: float
    camera: str | None
    tool_calls: list[str] | None


def image_feature(height: int, width: int) -> Feature:
    return {"dtype": "image", "names": ["height", "width", "channels"], "shape": [height, width, 3]}


def array_feature(names: Sequence[str], dtype: str = "float32") -> Feature:
    return {"dtype": dtype, "names": list(names), "shape": [len(names)]}


def language_feature() -> Feature:
    """The feature `LANGUAGE`."""
    return {"dtype": "language", "names": None, "shape": [1]}


def index_features() -> dict[str, Feature]:
    """The features of the columns `INDICES`."""
    return {name: {"dtype": dtype, "names": None, "shape": [1]} for name, dtype in INDICES.items()}


def is_numeric(feature: Feature) -> bool:
    """Whether a feature holds numbers, rather than images or annotations."""
    return feature["dtype"] not in ("image", "language")


def element_names(features: Mapping[str, Feature], name: str) -> list[str]:
    """The names of the elements of a feature of numbers; none where the dataset does not name them."""
    return features[name]["names"] or []


def data_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """The arrow schema of the data files. Its metadata tell the `datasets` library which structs are images."""
    columns = {name: _column(feature) for name, feature in ({**features} | index_features()).items()}
    types = {name: huggingface for name, (_, huggingface) in columns.items()}
    huggingface = json.dumps({"info": {"features": types}}, sort_keys=True)
    return pa.schema([pa.field(name, arrow) for name, (arrow, _) in columns.items()], {"huggingface": huggingface})


def _column(feature: Feature) -> tuple[pa.DataType, dict[str, object]]:
    """The arrow type of a feature's column, and the `datasets` library's description of it."""
    dtype, width = feature["dtype"], feature["shape"][0]
    if dtype == "image":
        return _PNG, {"_type": "Image"}
    if dtype == "language":
        row = {name: _value(str(kind)) for name, kind in _LANGUAGE.items()}
        row |= {"timestamp": _value("float32"), "tool_calls": {"_type": "List", "feature": _value("string")}}
        return pa.list_(pa.struct(list(_LANGUAGE.items()))), {"_type": "List", "feature": row}
    number = pa.bool_() if dtype == "bool" else pa.type_for_alias(dtype)
    if width == 1:
        return number, _value(dtype)
    return pa.list_(number, width), {"_type": "Sequence", "feature": _value(dtype), "length": width}


def _value(dtype: str) -> dict[str, object]:
    return {"_type": "Value", "dtype": dtype}
