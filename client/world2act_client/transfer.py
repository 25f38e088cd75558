"""Downloads the files of a manifest into a cache: parallel ranged reads, resumable, every byte verified.

A file is split into parts. Each part is written to its position in a file of the full size, and a journal next to the
file records how much of each part is complete, so that a later process fetches only the rest. The sha256 of the whole
file is computed as parts are completed; only files that match the manifest enter the cache.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import shutil
import struct
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from botocore.exceptions import BotoCoreError

from world2act_client.cache import Cache
from world2act_client.errors import Conflict, NotFound, ReleaseError, Tampered, Unreachable
from world2act_client.files import disk_errors, hash_on
from world2act_client.manifest import FileEntry
from world2act_client.s3 import Body
from world2act_client.store import Store, object_key

Progress = Callable[[int], None]
_PART = 32 * 2**20  # bytes per request
_BUFFER = 2**18  # bytes between two entries in the journal; larger writes are slower
_THREADS = min(16, 2 * (os.cpu_count() or 1))
_TRIES = 8  # consecutive ones without progress: about a minute and a half
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0
_COUNTER = struct.Struct("<Q")


class _Damaged(Exception):
    """The object, or the bytes that arrived, differ from the manifest."""


class _Stopped(Exception):
    """Another thread failed, so this one stops."""


def fetch(store: Store, cache: Cache, files: list[FileEntry], folder: Path, progress: Progress) -> None:
    """Download files into the cache.

    Args:
        store: the store that has their objects.
        cache: the cache to fill.
        files: the missing files, every content once.
        folder: for partial files and their journals, which survive a failure; no other process may use it meanwhile.
        progress: called with the number of bytes that were found or read; negative if they turn out to be damaged.

    Raises:
        Tampered: an object differed from the signed one twice in a row.
        Unreachable: the store did not answer within all retries.
        ReleaseError: what `Store` and `disk_errors` raise.
    """
    with disk_errors(folder):
        _check_room(files, folder)
    damaged = _try([_Partial(store, cache, file, folder, progress) for file in files])
    for partial in damaged:
        partial.discard()
    for partial in _try([_Partial(store, cache, partial.file, folder, progress) for partial in damaged]):
        partial.discard()
        where = f"{store.url}/{object_key(partial.file.md5)} ({partial.file.path})"
        expected = f"{partial.file.size} bytes with sha256 {partial.file.sha256[:16]}…, as signed"
        raise Tampered(where, partial.damage, expected, "publish the version again, or `dvc push` the object again")


def _check_room(files: Iterable[FileEntry], folder: Path) -> None:
    have = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    need = sum(file.size for file in files) - have
    free = shutil.disk_usage(folder).free
    if need > free:
        remedy = "free disk space, or put WORLD2ACT_CACHE on a larger disk"
        raise ReleaseError(folder, f"{free:,} bytes free", f"room for {need:,} more", remedy)


def _try(partials: list[_Partial]) -> list[_Partial]:
    """Download files, all parts in parallel. Returns: those that arrived damaged."""
    stop = threading.Event()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="get") as pool:
        # first parts of all files first, since two threads that write to one file block each other in the kernel
        parts = sorted(((part, partial) for partial in partials for part in range(partial.parts)), key=itemgetter(0))
        jobs = [pool.submit(partial.download, part, stop) for part, partial in parts]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for job in jobs:
                job.cancel()
    for partial in partials:
        partial.close()
    for job in jobs:
        if not job.cancelled() and (error := job.exception()) and not isinstance(error, _Stopped):
            raise error
    return [partial for partial in partials if partial.damage]


@dataclass(frozen=True)
class _Handles:
    """File descriptors of a partial file and of its journal."""

    data: int
    journal: int


class _Partial:
    """One file that is being downloaded: its parts, their progress, and the running hash."""

    def __init__(self, store: Store, cache: Cache, file: FileEntry, folder: Path, progress: Progress) -> None:
        self.store, self.cache, self.file, self.progress = store, cache, file, progress
        self.path, self.journal_path = folder / file.sha256, folder / f"{file.sha256}.journal"
        self.parts = max(1, math.ceil(file.size / _PART))
        self.damage = ""
        self._lock = threading.Lock()
        self._handles: _Handles | None = None
        self._etag: str | None = None
        self._done = [0] * self.parts  # bytes
        self._complete: set[int] = set()
        self._hashing, self._hashed, self._digest = False, 0, hashlib.sha256()

    def download(self, part: int, stop: threading.Event) -> None:
        """Fetch the rest of one part; the thread that completes the last part moves the file into the cache."""
        try:
            with disk_errors(self.path):
                self._open()
                hashed = self._read(part, stop)
                if self._complete_part(part, hashed):
                    self._finish()
        except _Damaged as error:
            self.damage = str(error)

    def close(self) -> None:
        """Close the file; what was fetched is kept for another try."""
        if self._handles:
            os.close(self._handles.data)
            os.close(self._handles.journal)
        self._handles = None

    def discard(self) -> None:
        """Delete what was fetched."""
        self.progress(-sum(self._done))
        self.path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)

    @property
    def _opened(self) -> _Handles:
        if self._handles is None:
            raise ValueError(f"{self.path} is not open")
        return self._handles

    def _bounds(self, part: int) -> tuple[int, int]:
        return part * _PART, min((part + 1) * _PART, self.file.size)

    def _open(self) -> None:
        """Open the file and its journal, and use the journal if it is complete and of this part size."""
        with self._lock:
            if self._handles:
                return
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            data, journal = os.open(self.path, flags, 0o600), os.open(self.journal_path, flags, 0o600)
            self._handles = _Handles(data, journal)
            if self.file.size:
                os.posix_fallocate(data, 0, self.file.size)
            counters = self.parts * _COUNTER.size
            content = os.read(journal, counters + 1024)
            part_size, _, etag = content[counters:].decode(errors="replace").partition(" ")
            if part_size == str(_PART) and etag.endswith("\n"):
                self._etag = etag.strip()
                self._done = [count for (count,) in _COUNTER.iter_unpack(content[:counters])]
                self.progress(sum(self._done))
            else:
                os.ftruncate(journal, 0)

    def _read(self, part: int, stop: threading.Event) -> bool:
        """Fetch the rest of a part. Returns: whether its bytes were hashed on arrival."""
        begin, end = self._bounds(part)
        at = begin + self._done[part]
        fruitless = 0
        with self._lock:
            hashing = at == begin and self._hashed == part and not self._hashing
            self._hashing |= hashing
        while at < end:
            why: Exception | str = "a truncated answer"
            try:
                with closing(self._ask(at, end)) as body:
                    while at < end and (content := body.read(min(_BUFFER, end - at))):
                        at, fruitless = at + self._keep(part, content, at), 0
                        if hashing:  # while the bytes are still in this core's cache
                            self._digest.update(content)
                        if stop.is_set():
                            raise _Stopped
                        if self.damage:
                            raise _Damaged(self.damage)
            except (BotoCoreError, Unreachable) as error:
                why = error
            if at < end:
                fruitless += 1
                if fruitless > _TRIES:
                    raise self._unreachable(why)
                if stop.wait(random.uniform(0, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**fruitless))):
                    raise _Stopped
        return hashing

    def _ask(self, begin: int, end: int) -> Body:
        """Request [begin, end) of the same object that the first answer came from."""
        if self._etag:
            return self._request(begin, end)
        with self._lock:
            body = self._request(begin, end)
            header = f"{_PART} {self._etag}\n".encode()
            os.pwrite(self._opened.journal, header, self.parts * _COUNTER.size)
            return body

    def _request(self, begin: int, end: int) -> Body:
        try:
            body, self._etag, size = self.store.open_range(object_key(self.file.md5), begin, end, self._etag)
        except Conflict as error:
            raise _Damaged("an object that was replaced during the download") from error
        except Tampered as error:
            raise _Damaged(str(error.found)) from error
        except NotFound as error:
            expected = f"the object of {self.file.path}"
            raise NotFound(
                error.where, error.found, expected, "publish the version again: the object was garbage-collected"
            ) from error
        if size != self.file.size:
            body.close()
            raise _Damaged(f"an object of {size} bytes")
        return body

    def _keep(self, part: int, content: bytes, at: int) -> int:
        """Write bytes to their position, then record them in the journal. Returns: their number."""
        count = os.pwrite(self._opened.data, content, at)
        if count < len(content):  # the disk is full: the next write raises the error
            os.pwrite(self._opened.data, content[count:], at + count)
        self._done[part] += len(content)
        os.pwrite(self._opened.journal, _COUNTER.pack(self._done[part]), part * _COUNTER.size)
        self.progress(len(content))
        return len(content)

    def _complete_part(self, part: int, hashed: bool) -> bool:
        """Hash completed parts in order, unless another thread is doing so. Returns: whether all is hashed."""
        with self._lock:
            self._complete.add(part)
            self._hashed += hashed
            if self._hashing and not hashed:
                return False
            self._hashing = True
        while True:
            with self._lock:
                if self._hashed not in self._complete:
                    self._hashing = False
                    return self._hashed == self.parts
            hash_on(self._digest, self._opened.data, *self._bounds(self._hashed))
            self._hashed += 1

    def _finish(self) -> None:
        if self._digest.hexdigest() != self.file.sha256:
            raise _Damaged(f"bytes with sha256 {self._digest.hexdigest()[:16]}…")
        self.close()
        self.cache.take(self.path, self.file.sha256)
        self.journal_path.unlink()

    def _unreachable(self, why: Exception | str) -> Unreachable:
        where = f"{self.store.url}/{object_key(self.file.md5)} ({self.file.path})"
        found = why.found if isinstance(why, Unreachable) else why if isinstance(why, str) else type(why).__name__
        remedy = "run it again: it continues where it stopped"
        return Unreachable(where, f"{found}, {_TRIES + 1} times in a row", "the rest of the object", remedy)
