"""The gate of artifacts/post_train: the residual policy and its history in, tables with expectations out."""

from __future__ import annotations

from pathlib import Path

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.gates.engine import Table, provenance_table, weights_table, why
from world2act.gates.probes import has_weights, weight_rows

_AGAIN = "delete artifacts/post_train and run `dvc repro post_train`"
_GENTLER = "lower post_train.training.learning_rate or post_train.training.steps"


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/post_train. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.post_train, artifacts / "post_train"
    history = read_parquet(root / "history.parquet", ["step", "loss", "cosine", "residual"]).to_pandas()
    weights = ["model.safetensors", *(["base/model*.safetensors"] if has_weights(root / "base") else [])]
    recorded = str(read_json(root / "config.json").get("base_sha256"))
    window = max(1, len(history) // 5)
    course = pd.DataFrame(
        [
            {
                "rows": len(history),
                "cosine_start": history["cosine"].head(window).mean(skipna=False),
                "cosine_end": history["cosine"].tail(window).mean(skipna=False),
                "residual": history["residual"].tail(window).mean(skipna=False),
            }
        ]
    ).assign(cosine_gain=lambda row: row["cosine_end"] - row["cosine_start"])
    return [
        Table(
            "history",
            history.replace([np.inf, -np.inf], np.nan),
            ("step",),
            [
                gxe.ExpectTableRowCountToBeBetween(min_value=1, **why("Post-training took steps.", _AGAIN)),
                gxe.ExpectColumnValuesToBeIncreasing(
                    column="step", strictly=True, **why("Steps are in order, none twice.", _AGAIN)
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="loss", min_value=0, **why("The contrastive loss is a number, at least 0.", _GENTLER)
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="cosine", min_value=-1.001, max_value=1.001, **why("Similarities are cosines.", _AGAIN)
                ),
            ],
        ),
        Table(
            "course",
            course,
            ("rows",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="residual",
                    min_value=1e-6,
                    max_value=limits.residual,
                    **why(
                        "The residual learnt something and stays a correction of the base policy (mean absolute "
                        "residual action at the end, "
                        "in the action's units).",
                        _GENTLER,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="cosine_gain",
                    min_value=-limits.cosine_drop,
                    **why("Actions did not drift away from what was imagined (cosine, end less start).", _GENTLER),
                ),
            ],
        ),
        weights_table(weight_rows(root, weights), _AGAIN),
        provenance_table(
            [
                {"part": "base policy beside it", "recorded": recorded, "found": sha256(artifacts / "base_policy")},
                {"part": "base policy inside it", "recorded": recorded, "found": sha256(root / "base")},
            ],
            _AGAIN,
        ),
    ]
