"""A release to fetch: objects, manifests and pointers on the S3 server, written as a publisher writes them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from world2act_client.get import get
from world2act_client.manifest import MANIFEST_TYPE, POINTER_TYPE, RECORD, FileEntry, Manifest, Pointer, digest_of
from world2act_client.signing import load_signing_key, make_key_pair, seal
from world2act_client.store import manifest_key, object_key, pointer_key

from tests.helpers.ceph import S3
from tests.helpers.fault_proxy import FaultProxy

CREATED = "2026-01-01T00:00:00+00:00"
PREFIX = "robots"


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress; the same seed gives the same ones."""
    return random.Random(seed).randbytes(size)


def entry(path: str, content: bytes) -> FileEntry:
    """What a manifest says of a file."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return FileEntry(path, len(content), md5, hashlib.sha256(content).hexdigest())


@dataclass
class Shelf:
    """One bucket with releases of `policy`, seen by a robot through a proxy.

    `files` maps version → path → content; the robot's environment variables are set while the fixture lives.
    """

    s3: S3
    proxy: FaultProxy
    bucket: str
    folder: Path
    files: dict[int, Mapping[str, bytes]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.client: Any = self.s3.client()
        self.use_new_key()

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{PREFIX}"

    @property
    def destination(self) -> Path:
        return self.folder / "robot" / "policy"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def trusted(self) -> Path:
        """The public keys that the robot trusts: the first one, until a test writes others."""
        return self.folder / "trusted.pem"

    def use_new_key(self) -> Path:
        """Sign with a new key from here on. Returns: its public half, which the robot trusts if it is the first."""
        private, public = make_key_pair(self.folder / f"keys-{len(list(self.folder.glob('keys-*')))}")
        self.key = load_signing_key(private)
        if not self.trusted.exists():
            self.trusted.write_bytes(public.read_bytes())
        return public

    def put(self, relative: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{PREFIX}/{relative}", Body=content)

    def publish(self, version: int, files: Mapping[str, bytes], name: str = "policy") -> Manifest:
        """Write the objects and the manifest of a version."""
        entries = tuple(entry(path, content) for path, content in files.items())
        for each, content in zip(entries, files.values(), strict=True):
            self.put(object_key(each.md5), content)
        git = {"revision": "0" * 40, "url": None, "modified": []}
        manifest = Manifest(name, version, CREATED, git, {}, [], {}, {}, {}, entries)
        self.put(manifest_key(name, version), seal(MANIFEST_TYPE, manifest.to_payload(), self.key))
        self.files[version] = files
        return manifest

    def promote(self, manifest: Manifest, serial: int, channel: str = "prod") -> None:
        """Write a channel's pointer with this serial."""
        digest = digest_of(manifest.to_payload())
        pointer = Pointer(manifest.name, channel, serial, manifest.version, digest, CREATED, "")
        self.put(pointer_key(manifest.name, channel, serial), seal(POINTER_TYPE, pointer.to_payload(), self.key))

    def get(self, reference: str = "policy@prod", **options: Any) -> Manifest:
        """Fetch into `destination`."""
        return get(reference, self.destination, **options)

    def read_destination(self) -> dict[str, bytes]:
        """Path → content of what lies there, but for the record."""
        found = (path for path in self.destination.rglob("*") if path.is_file() and path.name != RECORD)
        return {path.relative_to(self.destination).as_posix(): path.read_bytes() for path in found}
