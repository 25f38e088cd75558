"""An interrupted test run leaves no process and no folder, whichever signal ends which of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.ceph import missing_programs
from tests.helpers.paths import ROOT
from tests.helpers.service import until

# A test that starts a process which starts another, after what the fixtures started.
_TEST = """
import subprocess, sys, time
from pathlib import Path

CHILD = "import time; time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {{CHILD!r}}])"


def test_first({fixtures}) -> None:
    subprocess.Popen([sys.executable, "-c", PARENT])
    Path({here!r}, "ready").touch()
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("fixtures", "number", "workers"),
    [
        ("", signal.SIGTERM, 0),
        ("", signal.SIGINT, 2),
        ("service, prefect_server, s3", signal.SIGKILL, 0),
    ],
)
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, fixtures: str, number: signal.Signals, workers: int) -> None:
    if "s3" in fixtures and missing_programs():
        pytest.skip("Ceph is not installed")
    temporary = tmp_path / "t"
    run = _start(tmp_path, fixtures, workers)
    assert len(_processes_of(temporary)) >= 2 + 2 * workers + 2 * len(fixtures.split())
    run.send_signal(number)
    run.wait(120)
    until(lambda: not _processes_of(temporary), 60, "the run left processes")
    until(lambda: not _folders(temporary), 60, "the run left folders")


def test_a_worker_that_dies_takes_along_what_it_started(tmp_path: Path) -> None:
    run = _start(tmp_path, "", 1)
    started = {pid for pid, command in _processes_of(tmp_path / "t").items() if "time.sleep" in command}
    (worker,) = [child for child in psutil.Process(run.pid).children() if "guard" not in " ".join(child.cmdline())]
    worker.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in started), 60, "the dead worker left processes")
    assert len(started) == 2
    run.kill()
    run.wait()
    until(lambda: not _folders(tmp_path / "t"), 60, "the run left folders")


def _start(folder: Path, fixtures: str, workers: int) -> subprocess.Popen[bytes]:
    """A run of one test with this suite's fixtures, which waits."""
    (folder / "t").mkdir()
    (folder / "test_small.py").write_text(_TEST.format(fixtures=fixtures, here=str(folder)))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(ROOT), "-c", "pyproject.toml"]
    command += ["--numprocesses", str(workers)] if workers else []
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with (folder / "log").open("w") as log:
        run = subprocess.Popen(
            [*command, str(folder / "test_small.py")],
            cwd=ROOT,
            env=variables | {"TMPDIR": str(folder / "t"), "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    until(lambda: (folder / "ready").exists() or run.poll() is not None, 300, "the small run did not start")
    assert run.poll() is None, (folder / "log").read_text()
    until(lambda: any("-c import time" in command for command in _processes_of(folder / "t").values()))
    return run


def _processes_of(temporary: Path) -> dict[int, str]:
    """Command lines, by process, of all whose temporary folder is in `temporary`."""
    found = {}
    for process in psutil.process_iter(["environ", "cmdline"]):
        if str(temporary) in (process.info["environ"] or {}).get("TMPDIR", ""):
            found[process.pid] = " ".join(process.info["cmdline"] or [])
    return found


def _folders(temporary: Path) -> list[str]:
    """What is in `temporary`, but for the folder of pytest's own, which pytest removes after some runs."""
    return [path.name for path in temporary.iterdir() if not path.name.startswith("pytest-of-")]
