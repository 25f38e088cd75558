"""Great Expectations over measured tables: tables come in, reports/gates/<artifact>.json and Data Docs go out.

A gate measures the artifact itself into tables, one row an episode, clip or file, and holds a list of expectations
against each. Every expectation says in words what it means and what to do when it fails (`why`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context import AbstractDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from world2act.core.errors import GateFailed
from world2act.core.stage import REPORTS
from world2act.core.storage import write_json
from world2act.gates.data_docs import write_data_docs

_SHOWN_ROWS = 5
_UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class Table:
    """What a gate measured.

    Attributes:
        name: what a row is, in the plural: "episodes", "clips".
        frame: one row each; `ids` are the columns that tell a person which one it is.
        expectations: what must hold; each carries `why(...)`.
    """

    name: str
    frame: pd.DataFrame
    ids: tuple[str, ...]
    expectations: Sequence[gxe.Expectation]


def why(meaning: str, remedy: str) -> dict[str, Any]:
    """The plain words of an expectation, as keyword arguments of its constructor."""
    return {"notes": meaning, "meta": {"remedy": remedy}}


def weights_table(rows: list[dict[str, Any]], remedy: str) -> Table:
    """The table of a model's tensors (`world2act.gates.probes.weight_rows`) and what must hold of any."""
    return Table(
        "weights",
        pd.DataFrame(rows),
        ("file", "tensor"),
        [
            gxe.ExpectColumnValuesToBeInSet(
                column="finite",
                value_set=[True],
                **why("Every weight is finite.", f"training diverged: lower the learning rate or clip_norm; {remedy}"),
            ),
            gxe.ExpectColumnMaxToBeBetween(
                column="largest", min_value=1e-6, **why("The model is not all zeros.", remedy)
            ),
        ],
    )


def provenance_table(rows: list[dict[str, Any]], remedy: str) -> Table:
    """Rows of `part`, `recorded` and `found` sha256: the artifact was made from what stands beside it."""
    return Table(
        "provenance",
        pd.DataFrame(rows),
        ("part",),
        [
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="recorded",
                column_B="found",
                **why(
                    "The artifact was made from the artifacts that stand beside it now (sha256 recorded and found).",
                    remedy,
                ),
            ),
        ],
    )


def run_gate(artifact: str, tables: Sequence[Table]) -> dict[str, int]:
    """Validate the tables, write the results and the Data Docs, and stop the line on a red expectation.

    Expectations of severity "warning" are reported and stop nothing.

    Returns:
        counts: expectations, warnings, rows.

    Raises:
        GateFailed: an expectation failed; both outputs are written.
    """
    context = _context()
    results = [(table, _validate(context, artifact, table)) for table in tables]
    records = [_record(table, result) for table, suite in results for result in suite.results]
    failed = [record for record in records if not record["success"]]
    red = [record for record in failed if record["severity"] == "critical"]
    write_json(
        REPORTS / "gates" / f"{artifact}.json", {"artifact": artifact, "success": not red, "expectations": records}
    )
    write_data_docs(REPORTS / "data_docs" / artifact, artifact, {table.name: suite for table, suite in results})
    if red:
        raise GateFailed(_message(artifact, red))
    return {
        "expectations": len(records),
        "warnings": len(failed),
        "rows": sum(len(table.frame) for table in tables),
    }


@dataclass(frozen=True)
class Failure:
    """A row that failed an expectation: the row's ids, the value found, what was expected, meaning and remedy."""

    row: Mapping[str, Any]
    found: Any
    expected: str
    meaning: str
    remedy: str


def find_failures(name: str, tables: Sequence[Table]) -> list[Failure]:
    """Hold the expectations of the tables against their rows, and report nothing but the rows that fail.

    Raises:
        ValueError: an expectation could not be judged.
    """
    context, failures = _context(), []
    for table in tables:
        for result in _validate(context, name, table).results:
            if result.exception_info.get("raised_exception"):
                raise ValueError(f"{table.name}: {result.exception_info['exception_message']}")
            config = result.expectation_config
            for row in result.result.get("unexpected_index_list") or []:
                ids = {key: _plain(row[key]) for key in table.ids}
                found = _plain(row[config.kwargs["column"]])
                expected = _expected(config.type, config.kwargs)
                failures.append(Failure(ids, found, expected, config.notes, config.meta["remedy"]))
    return failures


def _context() -> AbstractDataContext:
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    # the default configuration makes a folder for documents in /tmp, and leaves it there
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(), progress_bars=ProgressBarsConfig(globally=False)
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    return context


def _validate(context: AbstractDataContext, artifact: str, table: Table) -> ExpectationSuiteValidationResult:
    expectations = [*table.expectations, _all_measured()]
    frame = table.frame.assign(**{_UNMEASURED: _missing_columns(table.frame, table.expectations)})
    suite = context.suites.add(gx.ExpectationSuite(f"{artifact}.{table.name}", expectations=expectations))
    batch = (
        context.data_sources.add_pandas(table.name)
        .add_dataframe_asset(table.name)
        .add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=table.name, data=batch, suite=suite))
    rows = {"result_format": "COMPLETE", "unexpected_index_column_names": list(table.ids)}
    return definition.run(batch_parameters={"dataframe": frame}, result_format=rows)


def _all_measured() -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(
        column=_UNMEASURED,
        value_set=[""],
        **why(
            "Everything that the expectations look at could be measured.",
            "the artifact holds non-finite or missing numbers there: delete it and run its stage again",
        ),
    )


def _missing_columns(frame: pd.DataFrame, expectations: Sequence[gxe.Expectation]) -> list[str]:
    """For each row, the names of the columns under expectation that are missing or NaN, joined by commas."""
    names = (getattr(each, key, None) for each in expectations for key in ("column", "column_A", "column_B"))
    columns = [column for column in dict.fromkeys(names) if column in frame.columns]
    missing = frame[columns].isna()
    return [", ".join(column for column in columns if row[column]) for _, row in missing.iterrows()]


def _record(table: Table, result: ExpectationValidationResult) -> dict[str, Any]:
    config, found = result.expectation_config, result.result
    column = config.kwargs.get("column") or " and ".join(
        filter(None, (config.kwargs.get("column_A"), config.kwargs.get("column_B")))
    )
    failing = found.get("unexpected_index_list") or []
    return {
        "table": table.name,
        "expectation": config.type,
        "column": column,
        "meaning": config.notes,
        "success": bool(result.success),
        "severity": str(config.severity.value if hasattr(config.severity, "value") else config.severity),
        "observed": _observed(table.frame, column, result),
        "expected": _expected(config.type, config.kwargs),
        "rows": len(table.frame),
        "failing": int(found.get("unexpected_count", 0)),
        "failing_rows": [
            {key: _plain(row[key]) for key in [*table.ids, *sorted(set(row) - set(table.ids))]}
            for row in failing[:_SHOWN_ROWS]
        ],
        "remedy": config.meta["remedy"],
    }


def _expected(kind: str, constraints: Mapping[str, Any]) -> str:
    """The threshold in words."""
    low, high = (_plain(constraints.get(key)) for key in ("min_value", "max_value"))
    match low, high:
        case None, None:
            pass
        case low, None:
            return f"at least {low}"
        case None, high:
            return f"at most {high}"
        case low, high:
            return f"{low}" if low == high else f"from {low} to {high}"
    if "value_set" in constraints:
        values = " or ".join("nothing" if value == "" else str(value) for value in constraints["value_set"])
        return f"no {values}" if "not" in kind else values
    if "regex" in constraints:
        return f"{'nothing' if 'not' in kind else 'everything'} that matches {constraints['regex']}"
    if "column_A" in constraints:
        relation = "equal to" if "equal" in kind else "not below" if constraints.get("or_equal") else "above"
        return f"{constraints['column_A']} {relation} {constraints['column_B']}"
    return kind.removeprefix("expect_column_values_to_").replace("_", " ")


def _observed(frame: pd.DataFrame, column: str, result: ExpectationValidationResult) -> Any:
    """The aggregate that was judged, or the range of the column that was judged row by row."""
    if result.exception_info.get("raised_exception"):
        return f"could not be judged: {result.exception_info['exception_message']}"
    if "observed_value" in result.result:
        return _plain(result.result["observed_value"])
    values = frame.get(column)
    if values is None or not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return f"{result.result.get('unexpected_count', 0)} of {len(frame)} rows fail"
    if len(frame) == 1:
        return _plain(values.iloc[0])
    return {name: _plain(getattr(values, name)()) for name in ("min", "mean", "max")}


def _plain(value: Any) -> Any:
    """Numbers that JSON can hold, rounded to what a person reads."""
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)


def _message(artifact: str, red: list[dict[str, Any]]) -> str:
    lines = [f"the gate of artifacts/{artifact} is red: {len(red)} expectation{'s' * (len(red) > 1)} failed"]
    for record in red:
        lines += [
            f"- {record['meaning']}",
            f"    check:    {record['expectation']}({record['column']}) over {record['rows']} {record['table']}",
            f"    found:    {_words(record['observed'])}",
            f"    expected: {record['expected']}",
        ]
        if record["failing"]:
            lines.append(
                f"    rows:     {record['failing']} failing, first: " + "; ".join(map(_words, record["failing_rows"]))
            )
        lines.append(f"    remedy:   {record['remedy']}")
    lines.append(f"results: {REPORTS / 'gates' / artifact}.json, pages: {REPORTS / 'data_docs' / artifact}")
    return "\n".join(lines)


def _words(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
