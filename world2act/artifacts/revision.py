"""The code that made an artifact: git revision, where to fetch it, and uncommitted changes."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from world2act.core.errors import BadInput

# the manifest has their content: dvc.lock as lineage, params.yaml as params
_IN_MANIFEST = {"dvc.lock", "params.yaml"}


def read_revision(root: Path, dependencies: Collection[str], *, allow_modified: bool) -> dict[str, object]:
    """The `git` entry of a manifest: revision, url (None without a remote), modified paths.

    A tracked file counts as modified if it differs from HEAD, a new file if a stage depends on it.

    Args:
        dependencies: paths that the stages of the lineage read, relative to `root`.

    Raises:
        BadInput: there is no commit, or there are modified paths without `allow_modified`.
    """
    try:
        revision = git(root, "rev-parse", "--verify", "HEAD").strip()
    except BadInput as error:
        raise BadInput(
            root, "", error.found, "a git repository with a commit", "commit the code: a release names its revision"
        ) from error
    modified = _modified(root, dependencies)
    if modified and not allow_modified:
        shown = ", ".join(modified[:5]) + (f" and {len(modified) - 5} more" if len(modified) > 5 else "")
        raise BadInput(
            root,
            "",
            f"differs from HEAD: {shown}",
            "committed code",
            "commit or revert them, or publish with --allow-modified: the manifest then names them",
        )
    return {"revision": revision, "url": _url(root), "modified": modified}


def git(root: Path, *arguments: str) -> str:
    """The output of a git command. Raises `BadInput` with git's message if it fails."""
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BadInput("git", "", "not installed", "git on PATH", "install git") from error
    if done.returncode:
        command = f"git {' '.join(arguments)}"
        raise BadInput(root, command, done.stderr.strip(), "success", "correct what git reports")
    return done.stdout


def _modified(root: Path, dependencies: Collection[str]) -> list[str]:
    prefix = git(root, "rev-parse", "--show-prefix").strip()
    entries = iter(git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--", ".").split("\0"))
    modified = set()
    for entry in filter(None, entries):
        state, path = entry[:2], entry[3:].removeprefix(prefix)
        if "R" in state or "C" in state:
            modified.add(next(entries).removeprefix(prefix))
        if state != "??" or any(path == read or path.startswith(f"{read}/") for read in dependencies):
            modified.add(path)
    return sorted(modified - _IN_MANIFEST)


def _url(root: Path) -> str | None:
    """The URL to fetch the revision from, without any credentials in it."""
    names = git(root, "remote").split()
    if not names:
        return None
    url = git(root, "remote", "get-url", "origin" if "origin" in names else names[0]).strip()
    parts = urlsplit(url)
    if parts.scheme and "@" in parts.netloc and parts.scheme.startswith("http"):
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return url
