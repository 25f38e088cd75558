"""Channels: the version that a robot gets for NAME@CHANNEL. A channel moves only by a new entry in its log."""

from __future__ import annotations

from world2act_client.errors import Conflict, NotFound
from world2act_client.manifest import CHANNEL, Manifest, Pointer
from world2act_client.releases import list_serials, parse_reference, read_manifest, read_pointer, resolve
from world2act_client.store import object_key, pointer_key

from world2act.artifacts.objects import missing_objects
from world2act.artifacts.registry import Registry, now


def promote(registry: Registry, reference: str, channel: str, note: str = "") -> Pointer:
    """Move a channel to the version that a reference names; do nothing if it is already at that version.

    Raises:
        NotFound: the version does not exist, or the store lacks one of its files.
        Conflict: another publisher moved the channel meanwhile.
    """
    if not CHANNEL.fullmatch(channel):
        expected = "a name of a-z, 0-9 and -, and neither `latest` nor a version"
        raise NotFound(f"channel {channel!r}", "not a channel name", expected, "choose a name such as `prod`")
    manifest, digest = resolve(registry.store, reference, registry.trusted)
    serials = list_serials(registry.store, manifest.name, channel)
    if serials:
        current = read_pointer(registry.store, manifest.name, channel, serials[-1], registry.trusted)
        if current.version == manifest.version:
            return current
    return _append(registry, manifest, digest, channel, serials[-1] if serials else 0, note)


def rollback(registry: Registry, reference: str, note: str = "") -> Pointer:
    """Move NAME@CHANNEL back to its version before the last promotion; a second call goes back one more.

    Raises:
        NotFound: the channel does not exist, or has always been at the same version.
        Conflict: another publisher moved the channel meanwhile.
    """
    wanted = parse_reference(reference)
    if not wanted.channel:
        remedy = f"name a channel: `world2act list {wanted.name}` shows them"
        raise NotFound(f"reference {reference!r}", "no channel", "NAME@CHANNEL", remedy)
    log = read_log(registry, wanted.name, wanted.channel)
    versions = version_history(log)
    if len(versions) < 2:
        found = f"never at anything but v{versions[0]}" if versions else "no such channel"
        remedy = f"promote the version you want: `world2act promote {wanted.name}@vN {wanted.channel}`"
        raise NotFound(f"{registry.store.url}: {reference}", found, "an earlier version", remedy)
    manifest, digest = read_manifest(registry.store, wanted.name, versions[-2], registry.trusted)
    return _append(
        registry, manifest, digest, wanted.channel, log[-1].serial, note or f"rolled back from v{versions[-1]}"
    )


def read_log(registry: Registry, name: str, channel: str) -> list[Pointer]:
    """Every pointer of a channel, verified, oldest first."""
    serials = list_serials(registry.store, name, channel)
    return [read_pointer(registry.store, name, channel, serial, registry.trusted) for serial in serials]


def version_history(log: list[Pointer]) -> list[int]:
    """The versions that a channel was at, oldest first; a return to one removes those after it."""
    versions: list[int] = []
    for pointer in log:
        if pointer.version in versions:
            del versions[versions.index(pointer.version) + 1 :]
        else:
            versions.append(pointer.version)
    return versions


def _append(registry: Registry, manifest: Manifest, digest: str, channel: str, last_serial: int, note: str) -> Pointer:
    missing = missing_objects(registry.store, {file.md5: file.size for file in manifest.files})
    if missing:
        raise NotFound(
            f"{registry.store.url}: {manifest.name}@v{manifest.version}",
            f"no {object_key(missing[0])}, and {len(missing) - 1} more are missing",
            "every file of the version",
            "publish the artifact again from the workspace that has it",
        )
    pointer = Pointer(
        name=manifest.name,
        channel=channel,
        serial=last_serial + 1,
        version=manifest.version,
        manifest_sha256=digest,
        created=now(),
        note=note,
    )
    if not registry.put_signed(pointer_key(manifest.name, channel, pointer.serial), pointer):
        raise Conflict(
            f"{registry.store.url}: {manifest.name}@{channel}",
            "moved by another publisher just now",
            f"still at entry {last_serial} of its log",
            f"check where it is with `world2act list {manifest.name}`, then decide again",
        )
    return pointer
