"""The gate of artifacts/base_policy: measures weights, statistics and check episodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.params import Params
from world2act.core.storage import read_json
from world2act.core.tables import read_rows
from world2act.evaluation.rows import CheckRow
from world2act.gates.engine.measurements import has_weights, weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import at_least, at_most, greater, is_true, rebuild

_REBUILD = rebuild("base_policy")
_TRAIN = "raise base_policy.training.steps or demos.labelled_per_task"
_READ_ERRORS = (
    "a simulator or its process failed: read the column `error` of artifacts/base_policy/check.parquet and run the "
    "stage again"
)
_BEATS_RANDOM = (
    "The base policy succeeds more often than a random one from the same check scenes (difference of success rates)."
)
_FEW_ERRORS = (
    "Almost no check episode ended in an infrastructure error (share of episodes; such episodes count for neither "
    "policy)."
)


@dataclass(frozen=True)
class _Comparison:
    episodes: int
    success_gain: float
    paired: bool
    error_share: float


@dataclass(frozen=True)
class _Statistic:
    feature: str
    dimension: int
    min: float
    max: float


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/base_policy. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.base_policy, artifacts / "base_policy"
    episodes = read_rows(root / "check.parquet", CheckRow)
    checks = [
        at_least("success_gain", limits.success_gain, _BEATS_RANDOM, remedy=_TRAIN),
        is_true("paired", "The base and the random policy were checked from the same scenes.", remedy=_REBUILD),
        at_most("error_share", limits.error_share, _FEW_ERRORS, remedy=_READ_ERRORS),
    ]
    check = Table.of("check", _Comparison, [_compare(episodes)], ("episodes",), checks)
    if not has_weights(root):
        return [check]
    return [check, _statistics(root), weights_table(weight_rows(root, ["model*.safetensors"]), _REBUILD)]


def _statistics(root: Path) -> Table:
    right_way_round = "In every normalisation box, the maximum is not below the minimum."
    return Table.of(
        "statistics",
        _Statistic,
        _statistic_rows(root),
        ("feature", "dimension"),
        [greater("max", "min", right_way_round, remedy=_REBUILD, or_equal=True)],
    )


def _compare(episodes: Sequence[CheckRow]) -> _Comparison:
    base, random = ([row for row in episodes if row.policy == name] for name in ("base", "random"))
    scenes = [sorted((row.task, row.seed) for row in part) for part in (base, random)]
    return _Comparison(
        episodes=len(base),
        success_gain=_success_rate(base) - _success_rate(random),
        paired=scenes[0] == scenes[1] != [],
        error_share=float(np.mean([row.error != "" for row in episodes])),
    )


def _success_rate(episodes: Sequence[CheckRow]) -> float:
    """The success rate over the episodes without an infrastructure error; NaN if there are none."""
    counted = [float(bool(row.success)) for row in episodes if not row.error]
    return sum(counted) / len(counted) if counted else math.nan


def _statistic_rows(root: Path) -> list[_Statistic]:
    return [
        _Statistic(feature, i, float(low), float(high))
        for feature, lows, highs in _boxes(read_json(root / "statistics.json"), "")
        for i, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _boxes(values: Mapping[str, object], name: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, minimum and maximum of every feature; a family may group features by embodiment and by part."""
    if "min" in values:
        yield name, np.ravel(np.asarray(values["min"])), np.ravel(np.asarray(values["max"]))
        return
    for key, value in sorted(values.items()):
        assert isinstance(value, Mapping)
        yield from _boxes(value, f"{name}.{key}".lstrip("."))
