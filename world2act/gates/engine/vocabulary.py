"""What a gate can expect of a table. Each function returns one `Check`, described in words and as an expectation of
Great Expectations, which is imported only to judge checks (`world2act.gates.engine.judge`).

Every check takes its meaning, a sentence that is true of a good artifact, and a remedy, what to do when it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning"]
Scalar = str | bool | int | float | None
_Statistic = Literal["values", "median", "largest", "length"]

_RANGES: dict[_Statistic, str] = {
    "values": "expect_column_values_to_be_between",
    "median": "expect_column_median_to_be_between",
    "largest": "expect_column_max_to_be_between",
    "length": "expect_column_value_lengths_to_be_between",
}


@dataclass(frozen=True)
class Check:
    """One expectation of a table.

    Attributes:
        kind: the expectation's name in Great Expectations, such as "expect_column_values_to_be_between".
        columns: the columns it looks at: none, one, or the two of a pair.
        options: its other arguments.
        severity: a failed "warning" is reported and stops nothing.
    """

    kind: str
    columns: tuple[str, ...]
    options: dict[str, Scalar | Sequence[Scalar]]
    meaning: str
    remedy: str
    severity: Severity = "critical"

    @property
    def arguments(self) -> dict[str, Scalar | Sequence[Scalar]]:
        """The keyword arguments of the expectation."""
        keys = ("column_A", "column_B") if len(self.columns) == 2 else ("column",)
        return {**dict(zip(keys, self.columns, strict=False)), **self.options}

    @property
    def expected(self) -> str:
        """The threshold in words."""
        options = self.options
        low, high = (plain(options.get(key)) for key in ("min_value", "max_value"))
        if low is not None or high is not None:
            return _range_in_words(low, high)
        if "value_set" in options:
            values = options["value_set"]
            assert isinstance(values, Sequence)
            return " or ".join("nothing" if value == "" else str(value) for value in values)
        if "regex" in options:
            return f"{'nothing' if 'not' in self.kind else 'everything'} that matches {options['regex']}"
        if len(self.columns) == 2:
            relation = "equal to" if "equal" in self.kind else "not below" if options.get("or_equal") else "above"
            return f"{self.columns[0]} {relation} {self.columns[1]}"
        return self.kind.removeprefix("expect_column_values_to_").replace("_", " ")


def between(
    column: str,
    low: float | None,
    high: float | None,
    meaning: str,
    *,
    remedy: str,
    severity: Severity = "critical",
    of: _Statistic = "values",
) -> Check:
    """Every value is in [low, high], or one statistic of the column is; None leaves that side open.

    Args:
        of: "values" checks every value, "length" the length of every text, "median" and "largest" that one statistic.
    """
    options = {key: value for key, value in (("min_value", low), ("max_value", high)) if value is not None}
    return Check(_RANGES[of], (column,), {**options}, meaning, remedy, severity)


def at_least(
    column: str,
    low: float,
    meaning: str,
    *,
    remedy: str,
    severity: Severity = "critical",
    of: _Statistic = "values",
) -> Check:
    """As `between`, without an upper limit."""
    return between(column, low, None, meaning, remedy=remedy, severity=severity, of=of)


def at_most(
    column: str,
    high: float,
    meaning: str,
    *,
    remedy: str,
    severity: Severity = "critical",
    of: _Statistic = "values",
) -> Check:
    """As `between`, without a lower limit."""
    return between(column, None, high, meaning, remedy=remedy, severity=severity, of=of)


def one_of(
    column: str, values: Sequence[Scalar], meaning: str, *, remedy: str, severity: Severity = "critical"
) -> Check:
    """Every value is one of `values`."""
    return Check("expect_column_values_to_be_in_set", (column,), {"value_set": values}, meaning, remedy, severity)


def is_true(column: str, meaning: str, *, remedy: str, severity: Severity = "critical") -> Check:
    """Every value is True."""
    return one_of(column, [True], meaning, remedy=remedy, severity=severity)


def equal(column: str, other: str, meaning: str, *, remedy: str, severity: Severity = "critical") -> Check:
    """In every row, the two columns have the same value."""
    return Check("expect_column_pair_values_to_be_equal", (column, other), {}, meaning, remedy, severity)


def greater(
    column: str, other: str, meaning: str, *, remedy: str, severity: Severity = "critical", or_equal: bool = False
) -> Check:
    """In every row, the first column is above the second, or at least equal to it."""
    kind = "expect_column_pair_values_a_to_be_greater_than_b"
    options: dict[str, Scalar | Sequence[Scalar]] = {"or_equal": True} if or_equal else {}
    return Check(kind, (column, other), options, meaning, remedy, severity)


def expect(
    kind: str,
    columns: Sequence[str],
    meaning: str,
    *,
    remedy: str,
    severity: Severity = "critical",
    **options: Scalar | Sequence[Scalar],
) -> Check:
    """Any other expectation of Great Expectations, by its name without "expect_"."""
    return Check(f"expect_{kind}", tuple(columns), options, meaning, remedy, severity)


def rebuild(artifact: str, stage: str = "") -> str:
    """The remedy that always helps: make the artifact again. `stage`: the last stage to run, if not the artifact's."""
    return f"delete artifacts/{artifact} and run `dvc repro {stage or artifact}`"


def plain(value: object) -> Scalar | list[Scalar]:
    """A value for JSON, with numbers rounded to six digits; None for a number that is not finite."""
    if isinstance(value, (list, tuple, set)):
        return [_plain_scalar(item) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: object) -> Scalar:
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if isinstance(value, (bool, int, str)) else None if value is None else str(value)


def _range_in_words(low: object, high: object) -> str:
    if high is None:
        return f"at least {low}"
    if low is None:
        return f"at most {high}"
    return f"{low}" if low == high else f"from {low} to {high}"
