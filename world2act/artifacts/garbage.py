"""Collect garbage: find, and on request delete, DVC objects in the store that nothing refers to any more.

Kept are the files and lineage of every release; what the workspace and every git reference refer to through DVC; what
a run on several machines has handed over; and objects younger than the grace period, with everything that a young
directory lists. If anything cannot be read (a manifest, a directory, a revision), the collection ends before it
deletes, because what that refers to is unknown.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from world2act_client.errors import NotFound, Tampered
from world2act_client.manifest import Manifest
from world2act_client.releases import current_pointer, read_manifest
from world2act_client.store import Store, object_key

from world2act.artifacts.lease import Lease, collector_lease
from world2act.artifacts.registry import Registry, open_pipeline, registry_of
from world2act.artifacts.revision import git
from world2act.core.errors import BadInput

if TYPE_CHECKING:
    from dvc.repo import Repo

OBJECTS = "files/md5/"
GRACE_DAYS = 7.0
_BATCH = 1000  # what S3 deletes in one request
_VERSION = re.compile(r"releases/([^/]+)/versions/v(\d{6,})\.json")
_POINTER = re.compile(r"releases/([^/]+)/channels/([^/]+)/(\d{6,})\.json")
_MD5 = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")


class Listed(NamedTuple):
    """An object as the store lists it."""

    md5: str
    size: int
    written: datetime


@dataclass
class Amount:
    """A number of objects and their total size in bytes."""

    objects: int = 0
    size: int = 0

    def count(self, listed: Iterable[Listed]) -> None:
        """Add objects."""
        for entry in listed:
            self.objects += 1
            self.size += entry.size


@dataclass(frozen=True)
class Sweep:
    """What a collection found. A dry run does not delete the garbage.

    Attributes:
        kept: objects that a release, git or a run refers to.
        young: objects within the grace period that nothing refers to yet.
        garbage: older objects that nothing refers to.
    """

    dry_run: bool
    releases: int
    revisions: int
    kept: Amount = field(default_factory=Amount)
    young: Amount = field(default_factory=Amount)
    garbage: Amount = field(default_factory=Amount)


def collect_garbage(
    *,
    store: str | None = None,
    dry_run: bool = True,
    grace_days: float = GRACE_DAYS,
    all_commits: bool = False,
    progress: Callable[[str], None] = print,
) -> Sweep:
    """Find the objects that nothing refers to, and delete them unless `dry_run`.

    Run it in a complete clone of the pipeline's git repository; references that only its remotes have are
    fetched first. Memory grows with the objects kept, not with those in the store.

    Args:
        grace_days: objects written later than this are kept, because a run may be about to refer to them.
        all_commits: keep what any commit refers to, not only the tips of branches and tags.

    Raises:
        BadInput: there is no pipeline here, the clone is shallow, or DVC cannot read a revision.
        Conflict: another collector is running.
        ReleaseError: a manifest or a channel cannot be verified, or the store refuses an action.
    """
    with open_pipeline(store) as repo:
        registry = registry_of(repo)
        keep, releases, revisions = _mark(repo, registry, all_commits)
        progress(f"{len(releases.seen)} releases and {revisions} git revisions name {len(keep.md5s):,} objects")
        oldest = registry.store.clock() - timedelta(days=grace_days)
        with nullcontext() if dry_run else collector_lease(registry.store) as lease:
            sweep = Sweep(dry_run, len(releases.seen), revisions)
            # DVC takes a directory without its files for complete, so directories are deleted first. A young directory
            # keeps its files, however old they are.
            for directories in (True, False):
                for page in _pages(_listed(registry.store, directories)):
                    _sweep_page(page, keep, releases, oldest, lease, sweep)
        return replace(sweep, releases=len(releases.seen))


def _mark(repo: Repo, registry: Registry, all_commits: bool) -> tuple[_Kept, _Releases, int]:
    """What to keep, the releases that were read for it, and the number of git revisions."""
    keep, releases = _Kept(repo, registry.store), _Releases(registry)
    revisions = git_revisions(Path(repo.root_dir), all_commits)
    keep.add(_named_by_git(repo, revisions))
    keep.add(_handed_over(registry.store))
    keep.add(releases.unseen())
    return keep, releases, len(revisions)


def _sweep_page(
    page: list[Listed], keep: _Kept, releases: _Releases, oldest: datetime, lease: Lease | None, sweep: Sweep
) -> None:
    """Count a page of the listing, and delete its garbage under a lease."""
    young = [listed for listed in page if listed.md5 not in keep.md5s and listed.written > oldest]
    keep.add(listed.md5 for listed in young if listed.md5.endswith(".dir"))
    garbage = [listed for listed in page if listed.md5 not in keep.md5s and listed.written <= oldest]
    if lease:
        lease.keep()
        if garbage:
            keep.add(releases.unseen())
            garbage = [listed for listed in garbage if listed.md5 not in keep.md5s]
            lease.keep()
            lease.store.delete(object_key(listed.md5) for listed in garbage)
    sweep.young.count(young)
    sweep.garbage.count(garbage)
    sweep.kept.count(set(page) - set(young) - set(garbage))


class _Kept:
    """The md5s to keep; a directory includes its files."""

    def __init__(self, repo: Repo, store: Store) -> None:
        self.md5s: set[str] = set()
        self._repo, self._store = repo, store

    def add(self, md5s: Iterable[str]) -> None:
        """Raises `BadInput` for a damaged directory. A missing one is skipped: it could not be pulled anyway."""
        for md5 in set(md5s) - self.md5s:
            self.md5s.add(md5)
            if md5.endswith(".dir"):
                self.md5s.update(self._members(md5))

    def _members(self, md5: str) -> list[str]:
        cached = Path(self._repo.cache.local.oid_to_path(md5))
        try:
            content = cached.read_bytes() if cached.exists() else self._store.read(object_key(md5))
        except NotFound:
            return []
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if f"{found}.dir" != md5:
            raise BadInput(
                f"{self._store.url}/{object_key(md5)}",
                "",
                f"other content, of md5 {found}",
                "the list of files with the md5 in its name",
                "restore or remove this object, and its copy in DVC's cache; until then its files are unknown",
            )
        return [entry["md5"] for entry in json.loads(content)]


class _Releases:
    """Every version in the store, read once; later calls read only new versions."""

    def __init__(self, registry: Registry) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._registry = registry

    def unseen(self) -> Iterator[str]:
        """The md5s that new versions name. Raises `ReleaseError` when one, or a channel, cannot be verified."""
        store, trusted = self._registry.store, self._registry.trusted
        found: set[tuple[str, int]] = set()
        channels: set[tuple[str, str]] = set()
        for key, *_ in store.list("releases/"):
            if version_key := _VERSION.fullmatch(key):
                found.add((version_key[1], int(version_key[2])))
            elif pointer_key := _POINTER.fullmatch(key):
                channels.add((pointer_key[1], pointer_key[2]))
            else:
                raise Tampered(
                    f"{store.url}/{key}",
                    "an unknown object",
                    "a version or a channel",
                    "nothing was deleted; find out what this object is, and remove it",
                )
        first = not self.seen
        for name, version in sorted(found - self.seen):
            manifest, _ = read_manifest(store, name, version, trusted)
            yield from _named_by(manifest)
            self.seen.add((name, version))
        for name, channel in sorted(channels) if first else ():
            version = current_pointer(store, name, channel, trusted).version
            if (name, version) not in found:
                raise Tampered(
                    f"{store.url}: {name}@{channel}",
                    f"v{version}, which is not in the store",
                    "a version in the store",
                    "nothing was deleted; restore the manifest, or promote another version",
                )


def _named_by(manifest: Manifest) -> Iterator[str]:
    yield from (file.md5 for file in manifest.files)
    for stage in manifest.lineage:
        yield from (entry["md5"] for entry in (*stage["deps"], *stage["outs"]))


def git_revisions(root: Path, all_commits: bool) -> list[str]:
    """The commits of all references (branches, also of remotes, tags, stashes, experiments), or with all ancestors.

    Raises:
        BadInput: the clone is shallow, so commits are missing, or a remote does not answer.
    """
    if git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise BadInput(root, "", "a shallow clone", "a clone with every branch", "run `git fetch --unshallow`")
    git(root, "fetch", "--quiet", "--all", "--tags")
    return git(root, "rev-list", "--all", *([] if all_commits else ["--no-walk"])).split()


def _named_by_git(repo: Repo, revisions: list[str]) -> set[str]:
    """The md5s of every cached output in the workspace and in the revisions."""
    found: set[str] = set()
    for _ in repo.brancher(revs=revisions):
        found |= {
            out.hash_info.value
            for out in repo.index.outs
            if out.use_cache and out.hash_info and not out.stage.is_repo_import
        }
    return found


def _handed_over(store: Store) -> Iterator[str]:
    """The md5s that parts of a run on several machines hand to each other, before git knows of them."""
    for key, *_ in store.list("handover/"):
        try:
            yield from _MD5.findall(store.read(key).decode(errors="replace"))
        except NotFound:  # the run ended meanwhile
            continue


def _listed(store: Store, directories: bool) -> Iterator[Listed]:
    for key, size, _, written in store.list(OBJECTS):
        md5 = key.removeprefix(OBJECTS).replace("/", "")
        if md5.endswith(".dir") == directories:
            yield Listed(md5, size, written)


def _pages(listed: Iterator[Listed]) -> Iterator[list[Listed]]:
    while page := list(islice(listed, _BATCH)):
        yield page
