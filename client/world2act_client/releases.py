"""From a reference to a verified manifest: policy@prod (a channel), policy@v12, policy@latest.

A channel is an append-only log of signed pointers; the one with the highest serial is current. Everything here reads
from a `Readable`: a store, or the envelopes that a cache remembers of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from world2act_client.errors import NotFound, Tampered
from world2act_client.manifest import CHANNEL, MANIFEST_TYPE, NAME, POINTER_TYPE, Manifest, Pointer, digest_of
from world2act_client.signing import TrustedKeys, open_sealed
from world2act_client.store import manifest_key, pointer_key

_VERSION_KEY = re.compile(r"releases/[^/]+/versions/v(\d{6,})\.json")
_POINTER_KEY = re.compile(r"releases/[^/]+/channels/[^/]+/(\d{6,})\.json")


class Readable(Protocol):
    """A source of signed envelopes."""

    @property
    def url(self) -> str: ...

    def read(self, relative: str) -> bytes: ...

    def keys(self, relative_prefix: str) -> Iterator[str]: ...


@dataclass(frozen=True)
class Reference:
    """NAME@CHANNEL, NAME@vVERSION, or NAME@latest (neither channel nor version)."""

    name: str
    channel: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.channel or (f'v{self.version}' if self.version else 'latest')}"


def parse_reference(text: str) -> Reference:
    """Parse a reference. Raises `NotFound` where it is not one."""
    name, at, target = text.partition("@")
    if at and NAME.fullmatch(name):
        if target == "latest":
            return Reference(name)
        if re.fullmatch(r"v[1-9]\d*", target):
            return Reference(name, version=int(target[1:]))
        if CHANNEL.fullmatch(target):
            return Reference(name, channel=target)
    remedy = "`world2act-client list` shows all"
    raise NotFound(f"reference {text!r}", "not a reference", "policy@prod, policy@v12 or policy@latest", remedy)


def read_manifest(store: Readable, name: str, version: int, trusted: TrustedKeys) -> tuple[Manifest, str]:
    """A version's manifest and its digest, verified.

    Raises:
        NotFound: the version does not exist.
        Tampered: the signature is invalid, or it is the manifest of another version.
    """
    where = f"{store.url}/{manifest_key(name, version)}"
    payload = open_sealed(store.read(manifest_key(name, version)), MANIFEST_TYPE, trusted, where)
    manifest = Manifest.from_payload(payload, where)
    if (manifest.name, manifest.version) != (name, version):
        found = f"the manifest of {manifest.name} v{manifest.version}"
        raise Tampered(where, found, f"that of {name} v{version}", "it was moved: do not use it")
    return manifest, digest_of(payload)


def read_pointer(store: Readable, name: str, channel: str, serial: int, trusted: TrustedKeys) -> Pointer:
    """One pointer of a channel's log, verified. Raises what `read_manifest` raises."""
    where = f"{store.url}/{pointer_key(name, channel, serial)}"
    payload = open_sealed(store.read(pointer_key(name, channel, serial)), POINTER_TYPE, trusted, where)
    pointer = Pointer.from_payload(payload, where)
    if (pointer.name, pointer.channel, pointer.serial) != (name, channel, serial):
        found = f"pointer {pointer.serial} of {pointer.name}@{pointer.channel}"
        raise Tampered(where, found, f"pointer {serial} of {name}@{channel}", "it was moved: do not use it")
    return pointer


def current_pointer(store: Readable, name: str, channel: str, trusted: TrustedKeys, not_before: int = 0) -> Pointer:
    """The current pointer of a channel.

    Raises:
        NotFound: the channel has no pointer.
        Tampered: as in `read_manifest`, or the highest serial is below `not_before`, which was seen earlier.
    """
    serials = list_serials(store, name, channel)
    if not serials:
        remedy = f"`world2act promote {name}@vN {channel}`, or `world2act-client list {name}`"
        raise NotFound(f"{store.url}: {name}@{channel}", "no such channel", "a channel with a pointer", remedy)
    _check_not_before(f"{store.url}: {name}@{channel}", "serial", serials[-1], not_before)
    return read_pointer(store, name, channel, serials[-1], trusted)


def resolve(
    store: Readable, reference: str | Reference, trusted: TrustedKeys, not_before: int = 0
) -> tuple[Manifest, str]:
    """The manifest that a reference refers to now, and its digest.

    Args:
        not_before: the highest serial of the channel (for `latest`, the highest version) that was seen earlier.

    Raises:
        NotFound: the name, channel or version does not exist.
        Tampered: a signature is invalid, a manifest differs from the one that was promoted, or the store is in a state
            from before `not_before`: a replayed old state cannot downgrade a client.
    """
    wanted = parse_reference(reference) if isinstance(reference, str) else reference
    if wanted.channel:
        pointer = current_pointer(store, wanted.name, wanted.channel, trusted, not_before)
        manifest, digest = read_manifest(store, wanted.name, pointer.version, trusted)
        if digest != pointer.manifest_sha256:
            where = f"{store.url}/{manifest_key(wanted.name, pointer.version)}"
            remedy = "the version was replaced after it was promoted: do not use it"
            raise Tampered(where, f"digest {digest[:16]}", f"{pointer.manifest_sha256[:16]}, as promoted", remedy)
        return manifest, digest
    version = wanted.version
    if version is None:
        versions = list_versions(store, wanted.name)
        if not versions:
            remedy = "`world2act-client list` shows all"
            raise NotFound(f"{store.url}: {wanted.name}", "no release of that name", "a version", remedy)
        version = versions[-1]
        _check_not_before(f"{store.url}: {wanted.name}@latest", "version", version, not_before)
    return read_manifest(store, wanted.name, version, trusted)


def list_versions(store: Readable, name: str) -> list[int]:
    """The versions of a release, ascending; empty where there are none."""
    return _numbers(store, f"releases/{name}/versions/", _VERSION_KEY)


def list_serials(store: Readable, name: str, channel: str) -> list[int]:
    """The serials of a channel's log, ascending; empty where there are none."""
    return _numbers(store, f"releases/{name}/channels/{channel}/", _POINTER_KEY)


def list_channels(store: Readable, name: str) -> list[str]:
    """The channels of a release."""
    return sorted({key.split("/")[3] for key in store.keys(f"releases/{name}/channels/")})


def list_names(store: Readable) -> list[str]:
    """The names of all releases."""
    return sorted({key.split("/")[1] for key in store.keys("releases/") if _VERSION_KEY.fullmatch(key)})


def _check_not_before(where: str, what: str, found: int, seen: int) -> None:
    if found < seen:
        remedy = (
            "an old state was restored. If you know who did it and why, delete the folder `remembered` of the cache"
        )
        raise Tampered(where, f"{what} {found}", f"{seen} or later, which was seen earlier", remedy)


def _numbers(store: Readable, prefix: str, pattern: re.Pattern[str]) -> list[int]:
    return sorted(int(found[1]) for key in store.keys(prefix) if (found := pattern.fullmatch(key)))
