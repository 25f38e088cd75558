"""The gate of artifacts/base_policy: weights, statistics and check episodes in, tables with expectations out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet
from world2act.gates.engine import Table, weights_table, why
from world2act.gates.probes import has_weights, weight_rows

_AGAIN = "delete artifacts/base_policy and run `dvc repro base_policy`"
_TRAIN = "raise base_policy.training.steps or demos.labelled_per_task"


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/base_policy. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.base_policy, artifacts / "base_policy"
    episodes = read_parquet(root / "check.parquet", ["policy", "task", "seed", "success", "error"]).to_pandas()
    weights = has_weights(root)
    return [
        Table(
            "check",
            _comparison(episodes),
            ("episodes",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="success_gain",
                    min_value=limits.success_gain,
                    **why(
                        "The base policy succeeds more often than a random one from the same check scenes "
                        "(difference of success rates).",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="paired",
                    value_set=[True],
                    **why("Base and random policy were checked from the same scenes.", _AGAIN),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="error_share",
                    max_value=limits.error_share,
                    **why(
                        "Next to no check episode ended in an infrastructure error (share; they count for neither "
                        "policy).",
                        "read `error` in artifacts/base_policy/check.parquet: a simulator or its process failed; "
                        "run the stage again",
                    ),
                ),
            ],
        ),
        *([_statistics(root), weights_table(weight_rows(root, ["model*.safetensors"]), _AGAIN)] if weights else []),
    ]


def _statistics(root: Path) -> Table:
    return Table(
        "statistics",
        pd.DataFrame(_statistic_rows(root)),
        ("feature", "dimension"),
        [
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="max",
                column_B="min",
                or_equal=True,
                **why("Normalisation boxes are not inside out.", _AGAIN),
            ),
        ],
    )


def _comparison(episodes: pd.DataFrame) -> pd.DataFrame:
    base, random = (episodes[episodes["policy"] == name] for name in ("base", "random"))
    scenes = [sorted(zip(part["task"], part["seed"], strict=True)) for part in (base, random)]
    rates = [part.loc[part["error"] == "", "success"].astype(float).mean() for part in (base, random)]
    return pd.DataFrame(
        [
            {
                "episodes": len(base),
                "success_gain": rates[0] - rates[1],
                "paired": scenes[0] == scenes[1] != [],
                "error_share": float((episodes["error"] != "").mean()),
            }
        ]
    )


def _statistic_rows(root: Path) -> list[dict[str, Any]]:
    return [
        {"feature": feature, "dimension": i, "min": low, "max": high}
        for feature, box in _boxes(read_json(root / "statistics.json"), "")
        for i, (low, high) in enumerate(zip(np.ravel(box["min"]), np.ravel(box["max"]), strict=True))
    ]


def _boxes(values: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every feature, which a family may keep by embodiment and by part."""
    if "min" in values:
        yield name, values
    else:
        for key, value in sorted(values.items()):
            yield from _boxes(value, f"{name}.{key}".lstrip("."))
