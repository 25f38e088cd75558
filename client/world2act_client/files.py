"""Local files and folders: locking, hashing and atomic replacement; symbolic links are never followed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from world2act_client.errors import Denied, ReleaseError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_BUFFER = 2**20  # small enough to stay in a core's cache between reading and hashing
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a `ReleaseError`."""
    try:
        yield
    except PermissionError as error:
        raise Denied(
            error.filename or path, error.strerror, "a folder that this user may write", "check its permissions"
        ) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            remedy = "free disk space and run it again: it continues where it stopped"
            raise ReleaseError(path, error.strerror, "room for the release", remedy) from error
        remedy = "choose a folder inside it" if error.errno == errno.EBUSY else "check what exists at this path"
        expected = "a folder that is not a mount point" if error.errno == errno.EBUSY else "a usable path"
        raise ReleaseError(error.filename or path, error.strerror or error, expected, remedy) from error


@contextmanager
def locked_folder(path: Path) -> Iterator[Path]:
    """Lock a folder against other processes and threads, after creating it if necessary.

    The holder may remove or rename it; those that wait then create a new one.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # its last holder has just removed it
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_still_at(handle, path):
                continue
            yield path
            return
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str | None:
    """The hash of a regular file; None where there is no such file, or it is a symbolic link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    with os.fdopen(handle, "rb", buffering=0):
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return hash_on(hashlib.sha256(), handle, 0, os.fstat(handle).st_size).hexdigest()


def hash_on(digest: hashlib._Hash, handle: int, begin: int, end: int) -> hashlib._Hash:
    """Feed the bytes [begin, end) of an open file to a hash."""
    buffer = memoryview(bytearray(min(_BUFFER, end - begin)))
    while begin < end:
        count = os.preadv(handle, [buffer[: end - begin]], begin)
        if not count:
            break
        digest.update(buffer[:count])
        begin += count
    return digest


def replace_folder(new: Path, target: Path, previous: Path) -> None:
    """Move the folder `new` to `target`, and what was there to `previous`: atomically where the file system can.

    Where it cannot, a crash between the two renames leaves no `target`; `recover` restores it.
    """
    if not target.exists() or not any(target.iterdir()):
        new.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_HERE, os.fsencode(new), _HERE, os.fsencode(target), _EXCHANGE) == 0:
            new.rename(previous)
            return
        if ctypes.get_errno() not in _CANNOT_EXCHANGE:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))
    target.rename(previous)
    new.rename(target)


def recover(target: Path, previous: Path) -> None:
    """Undo a `replace_folder` that a crash interrupted."""
    if previous.exists() and not target.exists():
        previous.rename(target)


def _is_still_at(handle: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False
