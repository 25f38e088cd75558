"""report: every artifact, gate result, metric and timing → reports/report.html, one page that needs nothing else."""

from pathlib import Path

from world2act.core.params import Params
from world2act.core.stage import REPORTS, Metrics, run_stage
from world2act.core.storage import atomic_file
from world2act.report.page import render


def main(params: Params) -> Metrics:
    page = render(Path.cwd())
    with atomic_file(REPORTS / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {"megabytes": round(len(page) / 1e6, 2)}


if __name__ == "__main__":
    run_stage("report", main)
