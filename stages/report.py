"""report: every artifact, gate result, metric and timing → reports/report.html, one page that needs nothing else."""

from pathlib import Path

from world2act.core.messages import one_message
from world2act.core.stage import REPORTS
from world2act.core.storage import atomic_file
from world2act.report.page import render


def main() -> None:
    page = render(Path.cwd())
    with atomic_file(REPORTS / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    # no metrics and no timing: the page depends on the folders of everybody else's, and would never be up to date
    with one_message("report"):
        main()
