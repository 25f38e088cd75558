"""What a gate measured, and the two tables that several gates have: weights and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from world2act.core.tables import RowT, column_names
from world2act.gates.engine.measurements import Weight
from world2act.gates.engine.vocabulary import Check, at_least, equal, is_true


@dataclass(frozen=True)
class Table:
    """What a gate measured.

    Attributes:
        name: what a row is, in the plural: "episodes", "clips".
        frame: the rows.
        ids: the columns that tell a person which row it is.
        checks: what must hold of the rows.
    """

    name: str
    frame: pd.DataFrame
    ids: tuple[str, ...]
    checks: Sequence[Check]

    @classmethod
    def of(
        cls, name: str, row: type[RowT], rows: Iterable[RowT], ids: tuple[str, ...], checks: Sequence[Check]
    ) -> Table:
        """A table of dataclass rows. `row` is their class: a table without rows has columns too."""
        columns = column_names(row)
        values = [[getattr(each, name) for name in columns] for each in rows]
        return cls(name, pd.DataFrame(values, columns=columns), ids, checks)


@dataclass(frozen=True)
class Provenance:
    """A part that an artifact was made from: its sha256 as recorded then and as found now."""

    part: str
    recorded: str
    found: str


def weights_table(rows: Sequence[Weight], remedy: str) -> Table:
    """The tensors of a model and what must hold of any model."""
    diverged = f"training diverged: lower the learning rate or clip_norm; {remedy}"
    return Table.of(
        "weights",
        Weight,
        rows,
        ("file", "tensor"),
        [
            is_true("finite", "Every weight is finite.", remedy=diverged),
            at_least("largest", 1e-6, "The model is not all zeros.", remedy=remedy, of="largest"),
        ],
    )


def provenance_table(rows: Sequence[Provenance], remedy: str) -> Table:
    """The artifact was made from the artifacts that exist now."""
    meaning = "The artifact was made from the other artifacts as they are now (sha256 recorded and found)."
    return Table.of("provenance", Provenance, rows, ("part",), [equal("recorded", "found", meaning, remedy=remedy)])
