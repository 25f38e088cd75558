"""The tables that a gate judges, and two that several gates share: weights and provenance."""

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
        name: what the rows are: "episodes", "clips".
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
        """A table of dataclass rows. `row` is their class, from which even a table without rows gets its columns."""
        columns = column_names(row)
        values = [[getattr(item, column) for column in columns] for item in rows]
        return cls(name, pd.DataFrame(values, columns=columns), ids, checks)


@dataclass(frozen=True)
class Provenance:
    """A part that an artifact was made from: its sha256 as it was recorded, and as it is now."""

    part: str
    recorded: str
    found: str


def weights_table(rows: Sequence[Weight], remedy: str) -> Table:
    """The tensors of a model, and what must hold of any model."""
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
    meaning = "The artifacts that this one was made from have not changed since (sha256 as recorded and as found)."
    return Table.of("provenance", Provenance, rows, ("part",), [equal("recorded", "found", meaning, remedy=remedy)])
