"""The releases in the store with their channels, and the difference between two releases."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from world2act_client.errors import NotFound
from world2act_client.manifest import FileEntry, Manifest
from world2act_client.releases import (
    current_pointer,
    list_channels,
    list_names,
    list_versions,
    read_manifest,
    resolve,
)

from world2act.artifacts.registry import Registry

_THREADS = 8
Change = tuple[object, object]
"""The value before and after; None if there was none."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Release:
    """One version and the channels that point to it."""

    manifest: Manifest
    channels: tuple[str, ...]

    @property
    def success(self) -> dict[str, float]:
        """Policy → share of its episodes that succeeded, without those that had an infrastructure error."""
        counted = {
            policy: [episode["success"] for episode in episodes if episode["success"] is not None]
            for policy, episodes in self.manifest.record.items()
        }
        return {policy: sum(results) / len(results) for policy, results in counted.items() if results}


@dataclass(frozen=True)
class Difference:
    """What changed between two releases; unchanged entries are left out.

    Attributes:
        params, metrics: dotted key → its values before and after.
        files: path → its entries before and after.
        stages: stage → which of its command and dependencies changed.
    """

    before: Manifest
    after: Manifest
    params: Mapping[str, Change]
    metrics: Mapping[str, Change]
    files: Mapping[str, tuple[FileEntry | None, FileEntry | None]]
    stages: Mapping[str, list[str]]


def list_releases(registry: Registry, name: str | None = None) -> list[Release]:
    """Every release, or those of one name, sorted by name and newest first.

    Raises:
        NotFound: nothing was released under that name.
        Tampered: a manifest or a channel cannot be verified.
    """
    releases = []
    for released in [name] if name else list_names(registry.store):
        versions = list_versions(registry.store, released)[::-1]
        if not versions:
            remedy = f"run `world2act publish {released}`, or `world2act list` to see all releases"
            raise NotFound(f"{registry.store.url}: {released}", "no release of that name", "a release", remedy)
        channels = {
            channel: current_pointer(registry.store, released, channel, registry.trusted).version
            for channel in list_channels(registry.store, released)
        }
        with ThreadPoolExecutor(_THREADS) as threads:
            read = threads.map(lambda version, name=released: _manifest(registry, name, version), versions)
            releases += [
                Release(manifest, tuple(channel for channel, at in channels.items() if at == manifest.version))
                for manifest in read
            ]
    return releases


def compare(registry: Registry, before: str, after: str) -> Difference:
    """Compare two releases. Raises what `world2act_client.releases.resolve` raises."""
    old, _ = resolve(registry.store, before, registry.trusted)
    new, _ = resolve(registry.store, after, registry.trusted)
    return Difference(
        before=old,
        after=new,
        params=_changes(_flat(old.params), _flat(new.params)),
        metrics=_changes(_flat(old.metrics), _flat(new.metrics)),
        files=_changes({file.path: file for file in old.files}, {file.path: file for file in new.files}),
        stages=_stage_changes(old, new),
    )


def _manifest(registry: Registry, name: str, version: int) -> Manifest:
    return read_manifest(registry.store, name, version, registry.trusted)[0]


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} → {"a.b": 1}; lists are not flattened."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        key: leaf
        for name, member in value.items()
        for key, leaf in _flat(member, f"{prefix}.{name}" if prefix else name).items()
    }


def _changes(before: Mapping[str, _T], after: Mapping[str, _T]) -> dict[str, tuple[_T | None, _T | None]]:
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _stage_changes(before: Manifest, after: Manifest) -> dict[str, list[str]]:
    old, new = ({stage["stage"]: stage for stage in manifest.lineage} for manifest in (before, after))
    changes: dict[str, list[str]] = {}
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new:
            changes[name] = ["new" if name in new else "gone"]
            continue
        deps = [{dep["path"]: dep["md5"] for dep in stage["deps"]} for stage in (old[name], new[name])]
        found = ["its command"] if old[name]["cmd"] != new[name]["cmd"] else []
        found += _changes(*deps)
        if found:
            changes[name] = found
    return changes
