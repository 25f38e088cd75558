"""Data Docs that can be read offline: the pages of Great Expectations, one small stylesheet instead of CDN links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView

from world2act.core.storage import atomic_directory

_RANDOM_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REMOTE = re.compile(
    r"<link[^>]*>|<script\b[^>]*>.*?</script>|<footer.*?</footer>|<nav class=\"navbar.*?</nav>\s*</div>\s*</nav>",
    re.DOTALL,
)


def write_data_docs(directory: Path, artifact: str, results: Mapping[str, ExpectationSuiteValidationResult]) -> None:
    """Write one HTML page per table, and index.html that lists them. The same results give the same bytes."""
    style = files("world2act.gates.engine").joinpath("data_docs.css").read_text(encoding="utf-8")
    with atomic_directory(directory) as pages:
        for table, result in results.items():
            (pages / f"{table}.html").write_text(_page(artifact, table, result, style), encoding="utf-8")
        (pages / "index.html").write_text(_index(artifact, results, style), encoding="utf-8")


def _page(artifact: str, table: str, result: ExpectationSuiteValidationResult, style: str) -> str:
    result.meta = {
        "great_expectations_version": result.meta["great_expectations_version"],
        "run_id": RunIdentifier(run_name=f"{artifact}.{table}", run_time="1970-01-01T00:00:00Z"),
    }
    for judged in result.results:
        if isinstance(observed := judged.result.get("observed_value"), np.generic):  # the page cannot print these
            judged.result["observed_value"] = observed.item()
    document = ValidationResultsPageRenderer(run_info_at_end=False).render(result)
    html: str = DefaultJinjaPageView().render(document)  # type: ignore[no-untyped-call]  # theirs has no annotations
    ids: dict[str, str] = {}
    html = _RANDOM_ID.sub(lambda found: ids.setdefault(found[0], f"id-{len(ids)}"), html)
    return _REMOTE.sub("", html).replace("</head>", f"<style>{style}</style></head>", 1)


def _index(artifact: str, results: Mapping[str, ExpectationSuiteValidationResult], style: str) -> str:
    rows = "".join(_index_row(table, result) for table, result in results.items())
    head = f'<head><meta charset="utf-8"><title>{artifact}</title><style>{style}</style></head>'
    body = f'<body><div class="container-fluid"><h1>{artifact}</h1><table class="table">{rows}</table></div></body>'
    return f'<!DOCTYPE html><html lang="en">{head}{body}</html>\n'


def _index_row(table: str, result: ExpectationSuiteValidationResult) -> str:
    holding = sum(bool(judged.success) for judged in result.results)
    return (
        f'<tr><td><a href="{table}.html">{table}</a></td><td>{"green" if result.success else "red"}</td>'
        f"<td>{holding} of {len(result.results)} expectations hold</td></tr>"
    )
