"""The types of the library, the stages, the flows and the client are checked strictly, without an error."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.environment import CACHE
from tests.helpers.paths import ROOT


def test_the_type_checker_finds_nothing() -> None:
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(CACHE / "mypy")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Success: no issues found in "), done.stdout + done.stderr
