"""report: every artifact, gate result, metric and timing → reports/report.html, one self-contained page."""

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
    # it writes no metrics and no timing: the page depends on the folders of both, and would never be up to date
    with one_message("report"):
        main()
