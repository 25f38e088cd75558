"""One run at a time per workspace; what a killed run left half-written is repaired before the next one.

The lock is the kernel's, on a file in .dvc/tmp, so it is released when the process that holds it ends for any reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

from flows.graph import open_repository
from world2act.core.errors import BadInput, World2ActError
from world2act.core.storage import atomic_file

LOCK = Path("dvc.lock")
_TEMPORARY = Path(".dvc/tmp")
_HELD, _LAST_LOCK, _RWLOCK = _TEMPORARY / "world2act.run", _TEMPORARY / "world2act.dvc.lock", _TEMPORARY / "rwlock"
_POLL_S = 1.0


class WorkspaceBusy(World2ActError):
    """Another run holds the workspace."""


@contextmanager
def hold_workspace(run: str, wait_s: float) -> Iterator[None]:
    """Hold the workspace in the current folder for one run; `dvc.lock` and DVC's locks are intact when it starts.

    Args:
        run: the name that other runs see while they wait.
        wait_s: how long to wait for another run to end.

    Raises:
        WorkspaceBusy: another run did not end in time; the message names it.
    """
    _TEMPORARY.mkdir(parents=True, exist_ok=True)
    with _HELD.open("a+", encoding="utf-8") as stream:
        _acquire(stream.fileno(), wait_s)
        stream.truncate(0)
        json.dump({"run": run, "pid": os.getpid(), "host": socket.gethostname()}, stream)
        stream.flush()
        _repair()
        yield
        keep_lock()
        stream.truncate(0)


def _acquire(descriptor: int, wait_s: float) -> None:
    deadline, told = time.monotonic() + wait_s, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder()
        if time.monotonic() > deadline:
            raise WorkspaceBusy(
                f"{Path.cwd()}\n  found:    {holder} runs here\n  expected: one run at a time in a workspace"
                "\n  remedy:   wait for it to end, or cancel it; wait_for_workspace_s makes a run wait by itself"
            )
        if not told:
            print(f"waiting for the workspace: {holder} runs here", flush=True)
            told = True
        time.sleep(_POLL_S)


def _holder() -> str:
    try:
        held = json.loads(_HELD.read_text(encoding="utf-8"))
    except ValueError:  # the holder is about to write the file
        return "another run"
    return f"run {held['run']} (process {held['pid']} on {held['host']})"


def keep_lock() -> None:
    """Keep a copy of a complete `dvc.lock`: DVC writes it in place, so a kill may leave only a part of it."""
    if LOCK.exists() and not _is_torn():
        with atomic_file(_LAST_LOCK) as copy:
            shutil.copyfile(LOCK, copy)


def merge_entry(stage: str, entry: Mapping[str, object]) -> None:
    """Write the entry that another workspace recorded for a stage into `dvc.lock`, as DVC would have here."""
    with open_repository():
        text = LOCK.read_text(encoding="utf-8") if LOCK.exists() else "schema: '2.0'\nstages: {}\n"
        content = parse_yaml_for_update(text, str(LOCK))
        content["stages"][stage] = entry
        with atomic_file(LOCK) as merged:
            merged.write_text(dumps_yaml(content), encoding="utf-8")


def read_entries(path: Path) -> Mapping[str, object] | None:
    """Stage → its entry in a `dvc.lock`; None if the file is visibly cut off."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return content.get("stages") if text.endswith("\n") and isinstance(content, dict) else None


def _repair() -> None:
    """After a kill while DVC wrote: restore the last complete `dvc.lock`, and drop a torn list of locks.

    DVC compares every recorded hash with the files, so an older record makes it run more, never less.
    """
    if LOCK.exists() and _is_torn():
        if not _LAST_LOCK.exists():
            raise BadInput(
                LOCK, "", "a file that was cut off", "a complete dvc.lock", "restore it from git, or delete it"
            )
        with atomic_file(LOCK) as copy:
            shutil.copyfile(_LAST_LOCK, copy)
        print(f"{LOCK} was cut off while DVC wrote it; restored the last complete one", flush=True)
    with suppress(FileNotFoundError):
        try:
            json.loads(_RWLOCK.read_text(encoding="utf-8"))
        except ValueError:
            _RWLOCK.unlink()


def _is_torn() -> bool:
    """Whether `dvc.lock` ends early: inside a line, or after the first few of the stages that it had before."""
    entries = read_entries(LOCK)
    if entries is None:
        return True
    before = list(read_entries(_LAST_LOCK) or ()) if _LAST_LOCK.exists() else []
    return len(entries) < len(before) and list(entries) == before[: len(entries)]
