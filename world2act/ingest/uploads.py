"""The uploads below a prefix of the store, one at a time, from a listing in the order of keys.

An upload is the folder of one LeRobot v3.0 dataset. Its objects arrive one at a time and in any order. They are
recognised by their path in LeRobot's layout; an object with any other path belongs to no upload.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

_NUMBERED = r"chunk-\d{3,6}/file-\d{3,6}\.parquet"
_FILE = re.compile(
    rf"(?:(?P<folder>.+)/)?(?P<file>meta/(?:info\.json|stats\.json|tasks\.parquet|episodes/{_NUMBERED})|data/{_NUMBERED})"
)


class Listed(NamedTuple):
    """An object of an upload, as the store lists it."""

    size: int
    etag: str
    written: datetime


@dataclass
class Upload:
    """The objects of one dataset that have arrived. `folder` is a key in the store, never a path on this machine."""

    folder: str
    files: dict[str, Listed] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 over the names, sizes and ETags: the same digest means the same content, wherever it is."""
        lines = (f"{name}\0{listed.size}\0{listed.etag}\n" for name, listed in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(listed.size for listed in self.files.values())

    @property
    def written(self) -> datetime:
        """When its last object arrived."""
        return max(listed.written for listed in self.files.values())


@dataclass
class Strays:
    """The number of objects that belong to no dataset, and the key of the first."""

    count: int = 0
    first: str = ""


def group(listing: Iterable[tuple[str, int, str, datetime]], strays: Strays) -> Iterator[Upload]:
    """Yield every upload after its last object, holding only the uploads that are still open.

    Args:
        listing: (key, bytes, ETag, written) in the order of keys, as S3 lists them.
        strays: is updated with the objects that belong to no dataset.
    """
    open_uploads: list[Upload] = []  # nested: the keys of an upload surround those of an upload inside it
    for key, size, etag, written in listing:
        found = _FILE.fullmatch(key)
        if not found or not found["folder"]:
            strays.count, strays.first = strays.count + 1, strays.first or key
            continue
        while open_uploads and not key.startswith(f"{open_uploads[-1].folder}/"):
            yield open_uploads.pop()
        if not open_uploads or open_uploads[-1].folder != found["folder"]:
            open_uploads.append(Upload(found["folder"]))
        open_uploads[-1].files[found["file"]] = Listed(size, etag, written)
    yield from reversed(open_uploads)
