"""The destination of `get`: a folder that is built next to its final path and renamed into place.

The folder records which release it holds, in `.world2act-release.json`. Only a folder with such a record is ever
replaced, so that nobody's work is lost.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from world2act_client.cache import Cache
from world2act_client.errors import Conflict, Tampered
from world2act_client.files import locked_folder, recover, replace_folder, sha256_of
from world2act_client.manifest import RECORD, FileEntry, Manifest


def read_record(destination: str | Path) -> tuple[Manifest, str] | None:
    """The manifest that a folder was made from, and its digest; None where the folder does not hold a release.

    The record was verified when it was written, but is not signed.
    """
    try:
        record = json.loads((Path(destination) / RECORD).read_bytes())
        manifest = Manifest.from_payload(json.dumps(record["manifest"]).encode(), Path(destination) / RECORD)
        return manifest, record["digest"]
    except (OSError, ValueError, KeyError, TypeError, Tampered):
        return None


def prepare(target: Path) -> None:
    """Undo an interrupted replacement, and check that a release may be written here. Raises `Conflict` if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if _work_folder(target).exists():
        with locked_folder(_work_folder(target)) as work:
            recover(target, work / "previous")
    _check_replaceable(target)


def install(cache: Cache, manifest: Manifest, digest: str, target: Path, source: dict[str, str]) -> None:
    """Make `target` the folder of a release whose files are all in the cache. Does nothing if it is that already.

    Args:
        source: the reference and the store that the manifest came from, for the record.

    Raises:
        Conflict: `target` holds something else than a release.
    """
    with locked_folder(_work_folder(target)) as work:
        recover(target, work / "previous")
        for left_by_a_crash in work.iterdir():
            shutil.rmtree(left_by_a_crash)
        _check_replaceable(target)
        if not _is_whole(cache, target, manifest, digest):
            new = work / "new"
            new.mkdir()
            for file in manifest.files:
                path = new / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(cache.path(file.sha256), path)
            _write_record(new, manifest, digest, source)
            replace_folder(new, target, work / "previous")
        shutil.rmtree(work)


def _work_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.world2act-partial")


def _check_replaceable(target: Path) -> None:
    remedy = "choose another folder, or move this one out of the way"
    expected = "a folder that does not exist, is empty, or holds nothing but an earlier release"
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise Conflict(target, "a link" if target.is_symlink() else "a file", expected, remedy)
    if not target.exists() or not any(target.iterdir()):
        return
    record = read_record(target)
    if record is None:
        raise Conflict(target, f"a folder without a usable {RECORD}", expected, remedy)
    ours = {file.path for file in record[0].files} | {RECORD}
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_symlink() or path.is_file()}
    if foreign := sorted(found - ours):
        raise Conflict(
            target, f"{len(foreign)} files that are not part of the release: {', '.join(foreign[:3])}", expected, remedy
        )


def _is_whole(cache: Cache, target: Path, manifest: Manifest, digest: str) -> bool:
    record = read_record(target)
    if record is None or record[1] != digest:
        return False

    def matches(file: FileEntry) -> bool:
        with suppress(FileNotFoundError):  # a hard link to a file that was just verified in the cache
            if os.path.samestat((target / file.path).lstat(), cache.path(file.sha256).lstat()):
                return True
        return sha256_of(target / file.path) == file.sha256

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return all(pool.map(matches, manifest.files))


def _link_or_copy(content: Path, path: Path) -> None:
    try:
        path.hardlink_to(content)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(content, path)
        path.chmod(0o444)


def _write_record(folder: Path, manifest: Manifest, digest: str, source: dict[str, str]) -> None:
    record = source | {"digest": digest, "manifest": json.loads(manifest.to_payload())}
    with (folder / RECORD).open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())  # otherwise a power cut may leave a folder without a record, which is never replaced
