"""What this machine has of releases: contents by their sha256, and the signed envelopes they were resolved from.

    objects/ab/cdef…           contents, read-only; hashed before each use
    partial/<manifest digest>/  what is being fetched; one process at a time (`world2act_client.transfer`)
    remembered/<store>/releases/…  envelopes, under the keys that they have in the store

Deleting the folder is always safe: it costs the next `get` its bytes, and the memory of the serials it has seen.
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
    """The envelopes of one store that this machine has seen. Reads and lists as a store does."""

    url: str
    folder: Path

    def read(self, relative: str) -> bytes:
        """An envelope. Raises `NotFound` where it was never seen."""
        try:
            return (self.folder / relative).read_bytes()
        except FileNotFoundError as error:
            remedy = "run it again when the store can be reached"
            raise NotFound(f"{self.url}/{relative}", "nothing in the cache", "an earlier answer", remedy) from error

    def list(self, relative_prefix: str) -> Iterator[tuple[str]]:
        """The keys below a prefix that ends in a slash, in order."""
        for path in sorted((self.folder / relative_prefix).rglob("*.json")):
            yield (path.relative_to(self.folder).as_posix(),)

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
        """Where a content lies, if it is there."""
        return self.folder / "objects" / sha256[:2] / sha256[2:]

    def holds(self, sha256: str) -> bool:
        """Whether a content is there and whole: its bytes are hashed."""
        return sha256_of(self.path(sha256)) == sha256

    def take(self, file: Path, sha256: str) -> None:
        """Move a verified file in. What lay there, damaged or the same, is replaced in one step."""
        self.path(sha256).parent.mkdir(parents=True, exist_ok=True)
        file.chmod(0o444)
        file.replace(self.path(sha256))

    @contextmanager
    def partial(self, digest: str) -> Iterator[Path]:
        """The folder in which one manifest's files are being fetched, held alone."""
        with locked_folder(self.folder / "partial" / digest) as folder:
            yield folder

    def remembered(self, url: str) -> Remembered:
        """What this machine has seen of a store."""
        return Remembered(url, self.folder / "remembered" / hashlib.sha256(url.encode()).hexdigest()[:16])
