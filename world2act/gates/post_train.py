"""The gate of artifacts/post_train: measures the residual policy and its training history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.params.gates import GatePostTrain
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.gates.engine.measurements import has_weights, weight_rows
from world2act.gates.engine.tables import Table, provenance_table, weights_table
from world2act.gates.engine.vocabulary import at_least, between, expect, rebuild

_REBUILD = rebuild("post_train")
_TRAIN_LESS = "lower post_train.training.learning_rate or post_train.training.steps"
_SMALL_CORRECTION = (
    "The residual learnt something and is still a correction of the base policy (mean absolute residual action at the "
    "end, in the action's units)."
)
_NO_DRIFT = "Actions did not drift away from the imagined video (cosine at the end minus cosine at the start)."


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/post_train. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "post_train"
    history = read_parquet(root / "history.parquet", ["step", "loss", "cosine", "residual"]).to_pandas()
    weights = ["model.safetensors", *(["base/model*.safetensors"] if has_weights(root / "base") else [])]
    recorded = str(read_json(root / "config.json").get("base_sha256"))
    provenance = [
        {"part": "artifacts/base_policy", "recorded": recorded, "found": sha256(artifacts / "base_policy")},
        {"part": "the copy of it in post_train/base", "recorded": recorded, "found": sha256(root / "base")},
    ]
    return [
        _history_table(history),
        _course_table(history, params.gates.post_train),
        weights_table(weight_rows(root, weights), _REBUILD),
        provenance_table(provenance, _REBUILD),
    ]


def _history_table(history: pd.DataFrame) -> Table:
    checks = [
        expect("table_row_count_to_be_between", [], "Post-training took steps.", remedy=_REBUILD, min_value=1),
        expect(
            "column_values_to_be_increasing",
            ["step"],
            "Steps are in order and none occurs twice.",
            remedy=_REBUILD,
            strictly=True,
        ),
        at_least("loss", 0, "The contrastive loss is a number, at least 0.", remedy=_TRAIN_LESS),
        between("cosine", -1.001, 1.001, "Similarities are cosines.", remedy=_REBUILD),
    ]
    return Table("history", history.replace([np.inf, -np.inf], np.nan), ("step",), checks)


def _course_table(history: pd.DataFrame, limits: GatePostTrain) -> Table:
    """The first and the last fifth of the history compared."""
    window = max(1, len(history) // 5)
    start, end = history.head(window), history.tail(window)
    cosine_start, cosine_end = start["cosine"].mean(skipna=False), end["cosine"].mean(skipna=False)
    row = {
        "rows": len(history),
        "cosine_start": cosine_start,
        "cosine_end": cosine_end,
        "residual": end["residual"].mean(skipna=False),
        "cosine_gain": cosine_end - cosine_start,
    }
    checks = [
        between("residual", 1e-6, limits.residual, _SMALL_CORRECTION, remedy=_TRAIN_LESS),
        at_least("cosine_gain", -limits.cosine_drop, _NO_DRIFT, remedy=_TRAIN_LESS),
    ]
    return Table("course", pd.DataFrame([row]), ("rows",), checks)
