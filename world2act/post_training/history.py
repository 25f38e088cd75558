"""How post-training went: a table inside the policy's directory, and metrics of the stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from world2act.core.storage import write_parquet
from world2act.post_training.description import Curve
from world2act.training.log import read_curves


def history_schema(curves: Sequence[Curve]) -> pa.Schema:
    """The columns of history.parquet: step, loss, and one per curve."""
    names = ["loss", *(curve.name for curve in curves)]
    return pa.schema([("step", pa.int64()), *((name, pa.float64()) for name in names)])


def write_history(path: Path, curves: Sequence[Curve]) -> dict[str, float]:
    """Write the training curves of the stage post_train, one row per step that was logged.

    Returns:
        For each curve its mean over the last tenth of the rows, and its first value where it asks for that.
    """
    logged = read_curves("post_train")
    schema = history_schema(curves)
    columns = {name: dict(logged[name]) for name in schema.names[1:]}
    rows = [{"step": step} | {name: column[step] for name, column in columns.items()} for step in columns["loss"]]
    write_parquet(path, rows, schema)
    tail = rows[-max(1, len(rows) // 10) :]
    metrics = {}
    for curve in curves:
        if curve.first:
            metrics[f"{curve.name}_first"] = rows[0][curve.name]
        metrics[curve.name] = sum(row[curve.name] for row in tail) / len(tail)
    return metrics
