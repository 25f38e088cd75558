"""Parquet tables whose rows are dataclasses: the arrow schema derives from the fields, so that it is written only once.

    @dataclass(frozen=True)
    class InitialState:
        task: str
        seed: int
        scene: Annotated[list[float], pa.list_(pa.float32())]

Column order is field order. `int` becomes int64, `float` float64, and an annotation gives any other arrow type.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from world2act.core.errors import BadInput
from world2act.core.storage import read_parquet, write_parquet

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")

_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}
_RESTORE = "restore it with `dvc checkout`, or delete it and run `dvc repro` to make it again"


def column_names(row: type[DataclassInstance]) -> list[str]:
    return [field.name for field in fields(row)]


@cache
def schema_of(row: type[DataclassInstance]) -> pa.Schema:
    """The arrow schema of a table of such rows."""
    hints = get_type_hints(row, include_extras=True)
    return pa.schema([(name, _arrow_type(hints[name])) for name in column_names(row)])


def write_rows(path: str | Path, row: type[RowT], rows: Iterable[RowT]) -> None:
    """Write a parquet file in the order of the rows. `row` is their class, which an empty table needs too."""
    names = column_names(row)
    write_parquet(path, [{name: getattr(entry, name) for name in names} for entry in rows], schema_of(row))


def read_rows(path: str | Path, row: type[RowT]) -> list[RowT]:
    """Read the columns of `row` from a parquet file; further columns are ignored.

    Raises:
        BadInput: the file is missing or damaged, or a column is missing, of another type, or empty in some row although
            its field is not optional.
    """
    schema, hints = schema_of(row), get_type_hints(row)
    table = read_parquet(path, schema.names)
    for field in schema:
        column = table[field.name]
        if column.type != field.type:
            raise BadInput(path, field.name, f"a column of {column.type}", f"a column of {field.type}", _RESTORE)
        if column.null_count and type(None) not in get_args(hints[field.name]):
            found = f"no value in {column.null_count} of {len(column)} rows"
            raise BadInput(path, field.name, found, "a value in every row", _RESTORE)
    return [row(**values) for values in table.to_pylist()]


def _arrow_type(hint: Any) -> pa.DataType:
    if get_origin(hint) is Annotated:
        return next(extra for extra in get_args(hint)[1:] if isinstance(extra, pa.DataType))
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is list:
        return pa.list_(_arrow_type(*get_args(hint)))
    return _TYPES[hint]
