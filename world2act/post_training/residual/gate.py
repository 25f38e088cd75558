"""What must hold of a policy of the residual method: its curves, how they developed, and the base policy inside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.gates.engine.tables import Provenance, Table, provenance_table
from world2act.gates.engine.vocabulary import at_least, between, rebuild
from world2act.post_training.residual.params import Limits

_REBUILD = rebuild("post_train")
_TRAIN_LESS = "lower post_train.training.learning_rate or post_train.training.steps"
_SMALL_CORRECTION = (
    "The residual learnt something and is still a correction of the base policy (mean absolute residual action at the "
    "end, in the action's units)."
)
_NO_DRIFT = "Actions did not drift away from the imagined video (cosine at the end minus cosine at the start)."


def tables(artifacts: Path, params: Params) -> list[Table]:
    """See `world2act.gates.post_train.MethodGate`."""
    root, limits = artifacts / "post_train", params.gates.post_train.block(Limits, params.post_train.method)
    history = read_parquet(root / "history.parquet", ["step", "loss", "cosine", "residual"]).to_pandas()
    recorded = str(read_json(root / "config.json").get("base_sha256"))
    provenance = [
        Provenance("artifacts/base_policy", recorded, sha256(artifacts / "base_policy")),
        Provenance("the copy of it in post_train/base", recorded, sha256(root / "base")),
    ]
    return [_curves_table(history), _course_table(history, limits), provenance_table(provenance, _REBUILD)]


def _curves_table(history: pd.DataFrame) -> Table:
    checks = [
        at_least("loss", 0, "The contrastive loss is a number, at least 0.", remedy=_TRAIN_LESS),
        between("cosine", -1.001, 1.001, "Similarities are cosines.", remedy=_REBUILD),
    ]
    return Table("curves", history.replace([np.inf, -np.inf], np.nan), ("step",), checks)


def _course_table(history: pd.DataFrame, limits: Limits) -> Table:
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
