"""The gate of artifacts/base_policy: measures weights, statistics and check episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet
from world2act.gates.engine.measurements import has_weights, weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import at_least, at_most, greater, is_true, rebuild

_REBUILD = rebuild("base_policy")
_TRAIN = "raise base_policy.training.steps or demos.labelled_per_task"
_READ_ERRORS = (
    "read the column `error` of artifacts/base_policy/check.parquet: a simulator or its process failed; run the stage "
    "again"
)
_BEATS_RANDOM = (
    "The base policy succeeds more often than a random one from the same check scenes (difference of success rates)."
)
_FEW_ERRORS = (
    "Almost no check episode ended in an infrastructure error (share of episodes; such episodes count for neither "
    "policy)."
)


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/base_policy. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.base_policy, artifacts / "base_policy"
    episodes = read_parquet(root / "check.parquet", ["policy", "task", "seed", "success", "error"]).to_pandas()
    checks = [
        at_least("success_gain", limits.success_gain, _BEATS_RANDOM, remedy=_TRAIN),
        is_true("paired", "The base and the random policy were checked from the same scenes.", remedy=_REBUILD),
        at_most("error_share", limits.error_share, _FEW_ERRORS, remedy=_READ_ERRORS),
    ]
    check = Table("check", _comparison(episodes), ("episodes",), checks)
    if not has_weights(root):
        return [check]
    return [check, _statistics(root), weights_table(weight_rows(root, ["model*.safetensors"]), _REBUILD)]


def _statistics(root: Path) -> Table:
    right_way_round = "In every normalisation box, the maximum is not below the minimum."
    return Table(
        "statistics",
        pd.DataFrame(_statistic_rows(root)),
        ("feature", "dimension"),
        [greater("max", "min", right_way_round, remedy=_REBUILD, or_equal=True)],
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
