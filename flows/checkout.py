"""Workspaces of a worker, for stages that are placed there: a git checkout per workspace, one DVC cache for all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from itertools import count
from pathlib import Path

from flows.remote import configure
from world2act.artifacts.revision import git
from world2act.core.errors import BadInput

WORKSPACES = "WORLD2ACT_WORKSPACES"


@contextmanager
def open_checkout(source: str, revision: str, store: str) -> Iterator[Path]:
    """A workspace with the code of a git revision, which nobody else uses meanwhile, as the current folder.

    The workspaces of a machine are in the folder that WORLD2ACT_WORKSPACES names (~/.cache/world2act/workspaces
    without it) and are used again, with the data that they hold.

    Args:
        source: a git URL, or a folder with a git repository.
        store: the URL of the DVC remote.

    Raises:
        BadInput: git cannot get the revision from there.
    """
    base = Path(os.environ.get(WORKSPACES, "~/.cache/world2act/workspaces")).expanduser().absolute()
    base.mkdir(parents=True, exist_ok=True)
    for number in count():
        with (base / f"{number}.lock").open("a") as stream:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            root = base / str(number)
            _check_out(root, source, revision)
            # what DVC starts in the workspace runs the workspace's code
            os.environ["PYTHONPATH"] = str(root)
            with chdir(root):
                configure(store, base / "cache")
                yield root
            return


def _check_out(root: Path, source: str, revision: str) -> None:
    if Path(source).exists():
        source = str(Path(source).absolute())
    if not (root / ".git").exists():
        git(root.parent, "init", "--quiet", str(root))
    try:
        git(root, "fetch", "--quiet", "--force", source, "HEAD", "+refs/heads/*:refs/world2act/*")
        git(root, "checkout", "--quiet", "--force", "--detach", revision)
    except BadInput as error:
        remedy = "push the commit there, or set WORLD2ACT_SOURCE on the worker to the URL of a repository that has it"
        raise BadInput(source, revision, error.found, "a git repository with this revision", remedy) from error
