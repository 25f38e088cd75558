"""Publish an artifact of a green, committed pipeline: write one signed manifest into the store.

No file is stored twice: the manifest refers to DVC's objects. A version is written once and never changed; of two
simultaneous publishers the second gets the next version. The order of steps rules out a half-published release: the
objects, a check of all of them, the manifest, and a second check in case garbage was collected in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from world2act_client.errors import ReleaseError
from world2act_client.manifest import Manifest
from world2act_client.releases import list_versions, read_manifest
from world2act_client.store import manifest_key, object_key

from world2act.artifacts import evidence
from world2act.artifacts.lease import wait_for_collector
from world2act.artifacts.lineage import Lineage, refuse_stale, trace
from world2act.artifacts.objects import Cached, describe_files, missing_objects, push_objects
from world2act.artifacts.registry import Registry, now, open_pipeline, registry_of
from world2act.artifacts.revision import read_revision
from world2act.core.params import PARAMS, read_yaml

if TYPE_CHECKING:
    from dvc.repo import Repo

_TRIES = 3
_SAME = ("params", "lineage", "files")


@dataclass(frozen=True)
class Published:
    """A version in the store.

    Attributes:
        new: False if the newest version already had the same files, params and lineage.
        moved: uploaded bytes.
    """

    manifest: Manifest
    new: bool
    moved: int


def publish(
    name: str, *, store: str | None = None, allow_modified: bool = False, progress: Callable[[str], None] = print
) -> Published:
    """Publish an artifact of the pipeline in the current directory.

    Args:
        name: one of `artifacts:` in dvc.yaml.
        store: the store's URL; None for WORLD2ACT_STORE or DVC's default remote.
        allow_modified: publish although the code differs from HEAD, and name the modified paths in the manifest.

    Raises:
        BadInput: a stage is not up to date, a gate is red or missing, the code is not committed, the policy is worse
            than its incumbent.
        ReleaseError: the store refuses or does not answer; there is then no new version.
    """
    with open_pipeline(store) as repo:
        registry = registry_of(repo, signing=True)
        lineage = trace(repo, name)
        draft = _draft(repo, name, lineage, allow_modified=allow_modified)
        artifact = Cached(lineage.out)
        sizes = {artifact.md5: artifact.size} | {file.md5: file.size for file in draft.files}
        progress(f"{name}: {len(draft.files)} files, {draft.size:,} bytes; moving what the store lacks")
        moved = _push(repo, registry, sizes)
        manifest, new = _write(registry, draft)
        if new:
            wait_for_collector(registry.store, progress)
            moved += _push(repo, registry, sizes)
        return Published(manifest, new, moved)


def _draft(repo: Repo, name: str, lineage: Lineage, *, allow_modified: bool) -> Manifest:
    """The manifest, except for its version. Raises `BadInput` if the artifact must not be published."""
    params = read_yaml(Path(repo.root_dir) / PARAMS)
    evidence.refuse_red(lineage)
    refuse_stale(repo, lineage)
    evidence.refuse_worse(lineage)
    git = read_revision(lineage.root, lineage.dependencies, allow_modified=allow_modified)
    draft = Manifest(
        name=name,
        version=1,
        created=now(),
        git=git,
        params=params,
        lineage=lineage.describe(),
        gates=evidence.gates(lineage),
        metrics=evidence.metrics(lineage),
        record=evidence.record(lineage),
        files=describe_files(Cached(lineage.out)),
    )
    return Manifest.from_payload(draft.to_payload())


def _push(repo: Repo, registry: Registry, sizes: Mapping[str, int]) -> int:
    """Upload those objects (md5 → bytes) that the store lacks. Returns the bytes that it lacked."""
    lacked = missing_objects(registry.store, sizes)
    missing = lacked
    for _ in range(_TRIES):
        if not missing:
            return sum(sizes[md5] for md5 in lacked)
        push_objects(repo, missing)
        missing = missing_objects(registry.store, sizes)
    raise ReleaseError(
        f"{registry.store.url}/{object_key(missing[0])}",
        "nothing, or another size",
        f"{sizes[missing[0]]} bytes",
        "if there is an object of another size, delete it, then publish again",
    )


def _write(registry: Registry, draft: Manifest) -> tuple[Manifest, bool]:
    """Write the draft as the next version unless the newest is the same. Returns the version and whether it is new."""
    while True:
        versions = list_versions(registry.store, draft.name)
        newest = versions[-1] if versions else 0
        if newest:
            manifest, _ = read_manifest(registry.store, draft.name, newest, registry.trusted)
            if all(getattr(manifest, field) == getattr(draft, field) for field in _SAME):
                return manifest, False
        manifest = replace(draft, version=newest + 1)
        if registry.put_signed(manifest_key(draft.name, manifest.version), manifest):
            return manifest, True
