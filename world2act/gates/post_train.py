"""The gate of artifacts/post_train: what must hold of every method's policies, and what the method in use adds."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from world2act.core.errors import BadInput
from world2act.core.members import load_member
from world2act.core.params import Params
from world2act.core.params.post_training import ROOM
from world2act.core.storage import read_parquet
from world2act.gates.engine.measurements import weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import expect, rebuild

_REBUILD = rebuild("post_train")


@runtime_checkable
class MethodGate(Protocol):
    """The part `gate` of a post-training method."""

    def tables(self, artifacts: Path, params: Params) -> list[Table]:
        """Measure what is specific to the method's policies in artifacts/post_train.

        Args:
            params: the method's limits are `params.gates.post_train.block(Limits, params.post_train.method)`.

        Raises:
            BadInput: a file is missing or damaged.
        """


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/post_train. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "post_train"
    gate = load_member(params.post_train.method, "gate", "tables", [ROOM], "params.yaml", "post_train.method")
    if not isinstance(gate, MethodGate):
        raise BadInput(str(gate.__name__), "tables", "no function", "a function", "see world2act/gates/post_train.py")
    weights = weights_table(weight_rows(root, ["**/model*.safetensors"]), _REBUILD)
    return [_history_table(root / "history.parquet"), *gate.tables(artifacts, params), weights]


def _history_table(path: Path) -> Table:
    history = read_parquet(path, ["step"]).to_pandas()
    in_order = "Steps are in order, and no step occurs twice."
    checks = [
        expect("table_row_count_to_be_between", [], "Post-training took steps.", remedy=_REBUILD, min_value=1),
        expect("column_values_to_be_increasing", ["step"], in_order, remedy=_REBUILD, strictly=True),
    ]
    return Table("history", history, ("step",), checks)
