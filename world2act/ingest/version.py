"""The data version on disk, in DVC, in the store and in git: how it advances, and how it is repaired after a kill.

The rename of data/ingested/ledger.parquet decides: datasets that the ledger does not name yet belong to no version, and
the steps after the rename (DVC, the store, the index, git) can be repeated any number of times. Which of them to repeat
follows from `runs/ingest/state.json`, which is written before and after the rename.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from world2act.artifacts.revision import git
from world2act.collection.ingested import FOLDER, INDEX, KINDS, LEDGER, TAKEN, LedgerRow, index_of, read_ledger
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.stage import RUNS
from world2act.core.storage import read_json, sha256, write_json
from world2act.core.tables import write_rows
from world2act.processes.dvc_command import dvc_command, stage_environment

POINTER = Path("data/ingested.dvc")
_STATE = RUNS / "ingest/state.json"
_REMOTE = "check the remote (`dvc remote list`), AWS_ENDPOINT_URL and the AWS_* credentials, then ingest again"


def synchronise(*, commit: bool) -> list[LedgerRow]:
    """Make data/ingested the version that DVC and git name or, after a kill, the one that the killed pass had decided.

    Returns:
        The ledger of that version.

    Raises:
        BadInput: the index names another version than DVC.
        InfrastructureError: DVC or git failed.
    """
    state = read_json(_STATE) if _STATE.exists() else {"ledger": "", "pointer": ""}
    if LEDGER.exists() and state["ledger"] == _sha256(LEDGER) and not state["pointer"]:
        _discard_unnamed()
        settle(commit=commit)
    elif state != _present():
        if POINTER.exists():
            _discard_unnamed()
            _dvc("pull", "--force", str(POINTER), remedy=_REMOTE)
        elif LEDGER.exists():  # the first version, without its state: runs/ was deleted
            settle(commit=commit)
        write_json(_STATE, _present())
    ledger = read_ledger()
    if read_json(INDEX) != index_of(ledger):
        found, expected = f"data version {index_of(ledger)['version']}", f"that of {INDEX}"
        raise BadInput(POINTER, "", found, expected, f"check out {POINTER} and {INDEX} from the same git revision")
    _discard_unnamed()
    if commit:
        _commit()
    return ledger


def advance(ledger: Sequence[LedgerRow], datasets: Mapping[str, Path], *, commit: bool) -> None:
    """Make `ledger` the data version, together with new datasets from elsewhere on this machine.

    Args:
        datasets: name in data/ingested → folder, which is moved there.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, source in datasets.items():
        shutil.move(source, FOLDER / name)
    new_ledger = LEDGER.with_name("next.parquet")
    write_rows(new_ledger, LedgerRow, ledger)
    write_json(_STATE, {"ledger": _sha256(new_ledger), "pointer": ""})
    new_ledger.replace(LEDGER)
    settle(commit=commit)


def settle(*, commit: bool) -> None:
    """Record the content of data/ingested in DVC, the store, the index and, with `commit`, git."""
    POINTER.unlink(missing_ok=True)  # DVC writes it in place, and could not read a torn one
    _dvc("add", "--quiet", str(FOLDER), remedy="correct what DVC reports, then ingest again")
    _dvc("push", "--quiet", str(POINTER), remedy=_REMOTE)
    write_json(INDEX, index_of(read_ledger()))
    if commit:
        _commit()
    write_json(_STATE, _present())


def _commit() -> None:
    """Commit the two small files, and nothing else from the index or the working tree."""
    here, paths = Path(), [str(path) for path in (POINTER, INDEX) if path.exists()]
    if not git(here, "status", "--porcelain", "--", *paths):
        return
    index = read_json(INDEX)
    counts = ", ".join(f"{index[kind]['episodes']} {kind.replace('_', '-')}" for kind in KINDS)
    message = f"Ingest data version {index['version']}\n\n{counts} episodes; `dvc pull {POINTER}` brings them."
    git(here, "add", "--", *paths)
    git(here, "commit", "--quiet", "--message", message, "--", *paths)


def _discard_unnamed() -> None:
    """Remove datasets and torn files that a killed pass left here."""
    named = {LEDGER.name} | {row.dataset for row in read_ledger() if row.outcome == TAKEN}
    torn: Iterable[Path] = INDEX.parent.glob(f".{FOLDER.name}.*") if INDEX.parent.exists() else ()
    unnamed = [path for path in FOLDER.iterdir() if path.name not in named] if FOLDER.exists() else []
    for path in (*unnamed, *torn):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _present() -> dict[str, str]:
    return {"ledger": _sha256(LEDGER), "pointer": _sha256(POINTER)}


def _sha256(path: Path) -> str:
    return sha256(path) if path.exists() else ""


def _dvc(command: str, *arguments: str, remedy: str) -> None:
    done = subprocess.run(
        dvc_command("--wait-for-lock", command, *arguments), env=stage_environment(), capture_output=True, text=True
    )
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-5:])
        found = said or f"exit code {done.returncode}"
        raise InfrastructureError(f"dvc {command}\n  found:    {found}\n  expected: success\n  remedy:   {remedy}")
