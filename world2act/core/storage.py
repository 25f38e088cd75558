"""Reading and writing artifacts: whole or not at all, the same bytes for the same content, no pickle.

A writer fills a temporary sibling and renames it into place, so that a kill or a full disk leaves the last
good artifact where it was. A reader turns a damaged file into a `BadInput` that names it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from world2act.core.errors import BadInput, InfrastructureError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")  # numpy's, which carries no errno
_RESTORE = "restore it with `dvc checkout`, or delete it and run `dvc repro` to make it again"


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that replaces it when the block ends without an error.

    Raises:
        InfrastructureError: the disk is full; `path` keeps its last good content.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with _disk_errors(target):
            yield temporary
            _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling file path that is renamed to `path` when the block ends without an error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        with _disk_errors(target):
            yield temporary
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class DiskFull(InfrastructureError):
    """Of a file; the folder that it was meant for says it again by its own name."""


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM and not _SHORT_WRITE.match(str(error)):
            raise
        raise _no_room(target, f"{error.strerror or error} while writing") from error
    except (pa.ArrowException, SafetensorError) as error:
        if not any(word in str(error) for word in ("No space left", "File too large", "quota")):
            raise
        raise _no_room(target, str(error)) from error
    except DiskFull as error:
        raise _no_room(target, "no space left on the device, or a file too large") from error


def _no_room(target: Path, found: str) -> DiskFull:
    return DiskFull(
        f"{target}\n  found:    {found}\n  expected: room for the new artifact"
        "\n  remedy:   free disk space and run the stage again; the last good artifact is untouched"
    )


def _swap(new: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def file_stem(name: str) -> str:
    """A task's name as part of a file name: the `/` after its suite makes no folder."""
    return name.replace("/", ".")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys and no NaN; the same value always gives the same bytes."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON. Raises `BadInput` when the file is missing or not JSON."""
    _must_exist(path, "a JSON file")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(path, "", str(error), "valid JSON", _RESTORE) from error


def write_parquet(path: str | Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows under an explicit schema, in the order given."""
    with atomic_file(path) as temporary:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd", write_page_checksum=True
        )


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a parquet table. Raises `BadInput` when it is missing, damaged or lacks a column."""
    _must_exist(path, "a parquet file")
    try:
        parquet = pq.ParquetFile(path, page_checksum_verification=True)
        for column in columns or []:
            if column not in parquet.schema_arrow.names:
                raise BadInput(path, column, f"columns {parquet.schema_arrow.names}", "this column", _RESTORE)
        return parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(path, "", str(error).splitlines()[0], "a whole parquet file", _RESTORE) from error


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as safetensors."""
    with atomic_file(path) as temporary:
        safetensors_numpy.save_file(dict(sorted(tensors.items())), temporary)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read safetensors. Raises `BadInput` when the file is missing or truncated."""
    _must_exist(path, "a safetensors file")
    try:
        return safetensors_numpy.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(path, "", str(error), "a whole safetensors file", _RESTORE) from error


def create_array(path: str | Path, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.memmap:
    """Memory-map a new `.npy` array to fill. A full disk is found here and not, as a crash, in mid-write."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with Path(path).open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
    return array


def read_array(path: str | Path) -> np.ndarray:
    """Memory-map a `.npy` array, read-only. Raises `BadInput` when it is missing or truncated."""
    _must_exist(path, "a .npy array")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(path, "", str(error), "a whole .npy array", _RESTORE) from error


def sha256(path: str | Path) -> str:
    """Hash one file, or a directory as its sorted relative paths and their contents."""
    root = Path(path)
    _must_exist(root, "a file or directory to hash")
    if root.is_file():
        with root.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(root).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def _must_exist(path: str | Path, what: str) -> None:
    if not Path(path).exists():
        raise BadInput(path, "", "nothing", what, "run the stage that writes it: `dvc repro`, or `dvc pull`")
