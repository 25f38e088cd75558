"""This machine's cache of releases: file contents by sha256, and the signed envelopes they were resolved from.

    objects/ab/cdef…           contents, read-only; hashed before every use
    partial/<manifest digest>/  downloads in progress; one process at a time (`world2act_client.transfer`)
    remembered/<store>/releases/…  envelopes, under the keys that they have in the store

Deleting the folder is always safe: the next `get` downloads everything again, and no longer knows which serials were
seen before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from world2act_client.errors import NotFound
from world2act_client.files import locked_folder, sha256_of


@dataclass(frozen=True)
class Remembered:
    """The envelopes of one store that this machine has seen. They are read and listed like the store itself."""

    url: str
    folder: Path

    def read(self, relative: str) -> bytes:
        """Read an envelope. Raises `NotFound` where it was never seen."""
        try:
            return (self.folder / relative).read_bytes()
        except FileNotFoundError as error:
            remedy = "run it again when the store can be reached"
            raise NotFound(
                f"{self.url}/{relative}", "nothing in the cache", "an answer from an earlier run", remedy
            ) from error

    def keys(self, relative_prefix: str) -> Iterator[str]:
        """The keys below a prefix that ends in a slash, in order."""
        for path in sorted((self.folder / relative_prefix).rglob("*.json")):
            yield path.relative_to(self.folder).as_posix()

    def keep(self, relative: str, content: bytes) -> None:
        """Remember an envelope."""
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)


class Cache:
    """A folder of contents that several processes may use at once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """The path of a content, whether or not the cache has it."""
        return self.folder / "objects" / sha256[:2] / sha256[2:]

    def holds(self, sha256: str) -> bool:
        """Whether the cache has a content, undamaged: its bytes are hashed."""
        return sha256_of(self.path(sha256)) == sha256

    def take(self, file: Path, sha256: str) -> None:
        """Move a verified file into the cache. An existing file, damaged or identical, is replaced atomically."""
        self.path(sha256).parent.mkdir(parents=True, exist_ok=True)
        file.chmod(0o444)
        file.replace(self.path(sha256))

    @contextmanager
    def partial(self, digest: str) -> Iterator[Path]:
        """The folder into which one manifest's files are downloaded, locked for this process."""
        with locked_folder(self.folder / "partial" / digest) as folder:
            yield folder

    def remembered(self, url: str) -> Remembered:
        """The envelopes of a store that this machine has seen."""
        return Remembered(url, self.folder / "remembered" / hashlib.sha256(url.encode()).hexdigest()[:16])
