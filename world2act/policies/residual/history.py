"""How stage 2 went, as a table inside the policy's directory and as metrics."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from world2act.core.storage import write_parquet
from world2act.training.log import read_curves

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("cosine", pa.float64()),
        ("cosine_base", pa.float64()),
        ("residual", pa.float64()),
    ]
)


def write_history(path: Path) -> dict[str, float]:
    """Write the training curves as rows; return the first and last of the cosine, and the residual's size.

    `cosine` is that of the executed chunks with the imagined ones, `cosine_base` what the base policy's chunks in the
    same states would have; `residual` is the mean absolute residual action, in environment units.
    """
    curves = read_curves("post_train")
    columns = {metric: dict(curves[metric]) for metric in SCHEMA.names[1:]}
    rows = [{"step": step} | {metric: column[step] for metric, column in columns.items()} for step in columns["loss"]]
    write_parquet(path, rows, SCHEMA)
    tail = rows[-max(1, len(rows) // 10) :]
    return {
        "cosine_first": rows[0]["cosine"],
        "cosine": sum(row["cosine"] for row in tail) / len(tail),
        "cosine_base": sum(row["cosine_base"] for row in tail) / len(tail),
        "residual": sum(row["residual"] for row in tail) / len(tail),
    }
