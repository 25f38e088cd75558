"""DVC as a child process: its output is shown as it arrives, and the last lines are kept."""

from __future__ import annotations

import re
import subprocess
import threading
from collections import deque

from world2act.processes.dvc_command import dvc_command, stage_environment

_LOCK_BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
_ADVICE = re.compile(r"\s*$|To (track|enable)|\s+(git add|dvc config)|Use `dvc push`|Data and pipelines are up")
_SHOWN_LINES = 20
_running: set[subprocess.Popen[str]] = set()
_running_lock = threading.Lock()


class LockBusy(Exception):
    """Another DVC process held the repository, or a path that this one reads or writes."""


def run_dvc(label: str, *arguments: str) -> tuple[int, str]:
    """Run DVC to its end, prefixing every line that it prints with `label`.

    Returns:
        DVC's exit code and the last lines it printed.

    Raises:
        LockBusy: it gave up on a lock; try again.
    """
    # DVC lets go of its lock while a stage runs and takes it again to record the outputs: there, a stage that has
    # run for an hour must wait for the lock instead of failing.
    command = dvc_command("--wait-for-lock", *arguments)
    lines: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        command, env=stage_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        with _running_lock:
            _running.add(process)
        assert process.stdout is not None
        for line in process.stdout:
            if not _ADVICE.match(line):
                lines.append(line.rstrip())
                print(f"{label} | {lines[-1]}", flush=True)
    with _running_lock:
        _running.discard(process)
    text = "\n".join(lines)
    if process.returncode and _LOCK_BUSY.search(text):
        raise LockBusy(label)
    return process.returncode, text


def end_running() -> None:
    """End every DVC process that this one started, and with it the stage that it runs."""
    with _running_lock:
        for process in _running:
            process.terminate()
