"""What a test process starts ends with it, however it ends: an interrupt, SIGTERM or SIGKILL.

A fixture's teardown ends what the fixture started, but a process that is killed tears nothing down, and pytest-xdist
kills its workers when a run is interrupted. So each test process starts a guard that outlives it: a process in a
session of its own, which waits until the test process is gone, then kills every process that carries its mark and
removes its temporary folder. The mark is a variable of the environment, which children inherit through any number of
generations, servers and daemons included.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MARK = "WORLD2ACT_TEST_PROCESS"
_PATIENCE_S = 60


def start_guard() -> None:
    """Mark what this process will start, give it a temporary folder of its own, and guard both.

    pytest's own folders stay where they were: pytest removes the older ones itself, and those of a failed test are
    there to be looked at.
    """
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # a short path: the name of a Unix socket may have 107 bytes
    folder = tempfile.mkdtemp(prefix="w2a-")
    os.environ["TMPDIR"], tempfile.tempdir = folder, folder
    os.environ[MARK] = f"{os.getpid()} {folder}"
    subprocess.Popen(
        [sys.executable, __file__, str(os.getpid()), folder],
        env=unmarked,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_for_the_end_of(parent: int) -> None:
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    if os.getppid() == parent:
        select.select([descriptor], [], [])


def _marked(mark: str) -> list[psutil.Process]:
    # a process that is gone, or that belongs to somebody else, shows no environment
    return [
        process for process in psutil.process_iter(["environ"]) if (process.info["environ"] or {}).get(MARK) == mark
    ]


def _kill_marked(mark: str) -> None:
    """Kill until none is left; a process may start another one while they are listed."""
    deadline, quiet = time.monotonic() + _PATIENCE_S, 0
    while quiet < 2 and time.monotonic() < deadline:
        found = _marked(mark)
        quiet = 0 if found else quiet + 1
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)


if __name__ == "__main__":
    _wait_for_the_end_of(int(sys.argv[1]))
    _kill_marked(f"{sys.argv[1]} {sys.argv[2]}")
    shutil.rmtree(Path(sys.argv[2]), ignore_errors=True)
