"""Great Expectations over measured tables. Input: tables. Output: reports/gates/<artifact>.json and Data Docs.

Importing this module imports Great Expectations, which takes seconds: gates and the vocabulary do not import it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import great_expectations as gx
import pandas as pd
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.expectations.registry import get_expectation_impl

from world2act.core.errors import GateFailed
from world2act.core.stage import REPORTS
from world2act.core.storage import write_json
from world2act.gates.engine.data_docs import write_data_docs
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import Check, Scalar, one_of, plain

_SHOWN_ROWS = 5
_UNMEASURED = "unmeasured"
_ALL_MEASURED = one_of(
    _UNMEASURED,
    [""],
    "Every column that is checked has a value in every row.",
    remedy="the artifact has NaN or missing numbers in these columns: delete it and run its stage again",
)

Row = Mapping[str, Scalar | list[Scalar]]
Observed = Scalar | list[Scalar] | Row


@dataclass(frozen=True)
class Record:
    """One expectation in reports/gates/<artifact>.json.

    Attributes:
        column: the column that was judged, or both of a pair joined by "and".
        observed: the aggregate that was judged, or the range of a column that was judged row by row.
        rows: the number of rows in the table.
        failing: how many of them fail; failing_rows: the first of them.
    """

    table: str
    expectation: str
    column: str
    meaning: str
    success: bool
    severity: str
    observed: Observed
    expected: str
    rows: int
    failing: int
    failing_rows: Sequence[Row]
    remedy: str


@dataclass(frozen=True)
class Failure:
    """A row that failed a check: the row's ids, the value found, and the check."""

    row: Row
    found: Scalar | list[Scalar]
    check: Check


def run_gate(artifact: str, tables: Sequence[Table]) -> dict[str, int]:
    """Judge the tables, write the results and the Data Docs, and stop the pipeline if a check failed.

    Failed checks of severity "warning" are reported, but do not stop the pipeline.

    Returns:
        counts: expectations, warnings, rows.

    Raises:
        GateFailed: a critical check failed; both outputs have been written.
    """
    context = _context()
    results = [(table, _validate(context, artifact, table)) for table in tables]
    records = [_record(table, result) for table, suite in results for result in suite.results]
    failed = [record for record in records if not record.success]
    red = [record for record in failed if record.severity == "critical"]
    write_json(
        REPORTS / "gates" / f"{artifact}.json",
        {"artifact": artifact, "success": not red, "expectations": [asdict(record) for record in records]},
    )
    write_data_docs(REPORTS / "data_docs" / artifact, artifact, {table.name: suite for table, suite in results})
    if red:
        raise GateFailed(_message(artifact, red))
    return {
        "expectations": len(records),
        "warnings": len(failed),
        "rows": sum(len(table.frame) for table in tables),
    }


def find_failures(name: str, tables: Sequence[Table]) -> list[Failure]:
    """Judge the tables and return the rows that fail, without writing a report.

    Raises:
        ValueError: a check could not be judged.
    """
    context, failures = _context(), []
    for table in tables:
        for result in _validate(context, name, table).results:
            check = _check_of(table, result)
            if result.exception_info.get("raised_exception"):
                raise ValueError(f"{table.name}: {result.exception_info['exception_message']}")
            for row in result.result.get("unexpected_index_list") or []:
                ids = {key: plain(row[key]) for key in table.ids}
                failures.append(Failure(ids, plain(row[check.columns[0]]), check))
    return failures


def _context() -> AbstractDataContext:
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    # the default configuration creates a folder for documents in /tmp and does not delete it
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(), progress_bars=ProgressBarsConfig(globally=False)
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _validate(context: AbstractDataContext, artifact: str, table: Table) -> ExpectationSuiteValidationResult:
    expectations = [_expectation(check, number) for number, check in enumerate(_checks(table))]
    frame = table.frame.assign(**{_UNMEASURED: _missing_columns(table)})
    suite = context.suites.add(gx.ExpectationSuite(f"{artifact}.{table.name}", expectations=expectations))
    batch = (
        context.data_sources.add_pandas(table.name)
        .add_dataframe_asset(table.name)
        .add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=table.name, data=batch, suite=suite))
    rows = {"result_format": "COMPLETE", "unexpected_index_column_names": list(table.ids)}
    return definition.run(batch_parameters={"dataframe": frame}, result_format=rows)


def _expectation(check: Check, number: int) -> Expectation:
    """A check as Great Expectations represents it; `number` identifies the check in its results."""
    described = {
        "severity": FailureSeverity(check.severity),
        "notes": check.meaning,
        "meta": {"remedy": check.remedy, "check": number},
    }
    return get_expectation_impl(check.kind).parse_obj(check.arguments | described)


def _checks(table: Table) -> list[Check]:
    return [*table.checks, _ALL_MEASURED]


def _check_of(table: Table, result: ExpectationValidationResult) -> Check:
    """The check that a result belongs to: Great Expectations does not keep the order of checks."""
    assert result.expectation_config is not None and result.expectation_config.meta is not None
    return _checks(table)[result.expectation_config.meta["check"]]


def _missing_columns(table: Table) -> list[str]:
    """For each row, the names of the checked columns that are missing or NaN, joined by commas."""
    names = dict.fromkeys(name for check in table.checks for name in check.columns)
    columns = [name for name in names if name in table.frame.columns]
    missing = table.frame[columns].isna()
    return [", ".join(column for column in columns if row[column]) for _, row in missing.iterrows()]


def _record(table: Table, result: ExpectationValidationResult) -> Record:
    check, column = _check_of(table, result), " and ".join(_check_of(table, result).columns)
    failing = result.result.get("unexpected_index_list") or []
    return Record(
        table=table.name,
        expectation=check.kind,
        column=column,
        meaning=check.meaning,
        success=bool(result.success),
        severity=check.severity,
        observed=_observed(table.frame, column, result),
        expected=check.expected,
        rows=len(table.frame),
        failing=int(result.result.get("unexpected_count", 0)),
        failing_rows=[
            {key: plain(row[key]) for key in [*table.ids, *sorted(set(row) - set(table.ids))]}
            for row in failing[:_SHOWN_ROWS]
        ],
        remedy=check.remedy,
    )


def _observed(frame: pd.DataFrame, column: str, result: ExpectationValidationResult) -> Observed:
    if result.exception_info.get("raised_exception"):
        return f"could not be judged: {result.exception_info['exception_message']}"
    if "observed_value" in result.result:
        return plain(result.result["observed_value"])
    values = frame.get(column)
    if values is None or not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return f"{result.result.get('unexpected_count', 0)} of {len(frame)} rows fail"
    if len(frame) == 1:
        return plain(values.iloc[0])
    return {name: plain(getattr(values, name)()) for name in ("min", "mean", "max")}


def _message(artifact: str, red: Sequence[Record]) -> str:
    lines = [f"the gate of artifacts/{artifact} is red: {len(red)} expectation{'s' * (len(red) > 1)} failed"]
    for record in red:
        lines += [
            f"- {record.meaning}",
            f"    check:    {record.expectation}({record.column}) over {record.rows} {record.table}",
            f"    found:    {_in_words(record.observed)}",
            f"    expected: {record.expected}",
        ]
        if record.failing:
            rows = "; ".join(_in_words(row) for row in record.failing_rows)
            lines.append(f"    rows:     {record.failing} failing, first: {rows}")
        lines.append(f"    remedy:   {record.remedy}")
    lines.append(f"results: {REPORTS / 'gates' / artifact}.json, pages: {REPORTS / 'data_docs' / artifact}")
    return "\n".join(lines)


def _in_words(value: Observed) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)
