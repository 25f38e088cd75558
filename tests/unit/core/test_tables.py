"""Rows as dataclasses: the schema is that of the fields, and a table that differs is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pytest

from world2act.core.errors import BadInput
from world2act.core.storage import write_parquet
from world2act.core.tables import read_rows, schema_of, write_rows


@dataclass(frozen=True)
class Measured:
    task: str
    seed: int
    error: float | None
    finite: bool
    scene: Annotated[list[float], pa.list_(pa.float32())]
    names: list[str] | None


ROWS = [Measured("push", 1, 0.5, True, [1.0, 2.0], ["a"]), Measured("reach", 2, None, False, [], None)]


def test_schema_is_that_of_the_fields() -> None:
    columns = [
        ("task", pa.string()),
        ("seed", pa.int64()),
        ("error", pa.float64()),
        ("finite", pa.bool_()),
        ("scene", pa.list_(pa.float32())),
        ("names", pa.list_(pa.string())),
    ]
    assert schema_of(Measured) == pa.schema(columns)


@pytest.mark.parametrize("rows", [ROWS, []])
def test_rows_come_back_as_they_were(tmp_path: Path, rows: list[Measured]) -> None:
    write_rows(tmp_path / "rows.parquet", Measured, rows)
    assert read_rows(tmp_path / "rows.parquet", Measured) == rows


def test_a_table_that_differs_is_refused_by_column(tmp_path: Path) -> None:
    path, row = tmp_path / "rows.parquet", {"task": "push", "seed": 1, "error": 0.5, "finite": True, "scene": [1.0]}
    schema = schema_of(Measured)
    write_parquet(path, [row], pa.schema([field for field in schema if field.name != "names"]))
    with pytest.raises(BadInput, match=r"rows\.parquet: names"):
        read_rows(path, Measured)
    place = schema.get_field_index("seed")
    write_parquet(path, [row | {"seed": 1.5}], schema.set(place, pa.field("seed", pa.float64())))
    with pytest.raises(BadInput, match=r"seed\n  found:    a column of double\n  expected: a column of int64"):
        read_rows(path, Measured)
    write_parquet(path, [row | {"seed": None}], schema)
    with pytest.raises(BadInput, match=r"seed\n  found:    no value in 1 of 1 rows"):
        read_rows(path, Measured)
