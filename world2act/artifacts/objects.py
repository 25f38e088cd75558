"""The files of an artifact as objects: described from DVC's cache, pushed by DVC, and checked in the store.

Everything is read from the cache by the md5s of dvc.lock, so a pipeline that runs meanwhile does not interfere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from world2act_client.errors import ReleaseError
from world2act_client.manifest import FileEntry
from world2act_client.store import Store, object_key

from world2act.core.errors import BadInput

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

_THREADS = 8  # hashing and requests both wait more than they compute
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Cached:
    """The files of one output in DVC's local cache, by their path inside it; a single file's path is its name."""

    def __init__(self, out: Output) -> None:
        self._cache = out.cache
        self.md5: str = out.hash_info.value
        self.md5s = {PurePosixPath(out.def_path).name: out.hash_info.value}
        if out.is_dir_checksum:
            try:
                tree = Tree.load(out.cache, out.hash_info)
            except (FileNotFoundError, ObjectFormatError) as error:
                raise _not_cached(out.def_path, out.hash_info.value) from error
            self.md5s = {"/".join(key): hash_info.value for key, _, hash_info in tree}

    @property
    def size(self) -> int:
        """Bytes of the output's object: the file, or the list of files of a directory."""
        return Path(self._cache.oid_to_path(self.md5)).stat().st_size

    def locate(self, path: str) -> Path:
        """The path of a file's content in the cache. Raises `BadInput` if the cache lacks it."""
        content = Path(self._cache.oid_to_path(self.md5s[path]))
        if not content.exists():
            raise _not_cached(path, self.md5s[path])
        return content

    def json(self, path: str) -> Any:
        """The content of a JSON file. Raises `BadInput` if it is missing or not JSON."""
        try:
            return json.loads(self.locate(path).read_bytes())
        except (KeyError, ValueError) as error:
            raise BadInput(path, "", error, "a JSON file", "run `dvc repro` to make it again") from error


def describe_files(files: Cached) -> tuple[FileEntry, ...]:
    """Size, md5 and sha256 of every file, in the order of paths.

    Raises:
        BadInput: the cache lacks a file, or its content differs from its md5.
    """
    return tuple(_in_threads(lambda path: _describe(files, path), sorted(files.md5s)))


def push_objects(repo: Repo, md5s: Iterable[str]) -> None:
    """Push objects from the cache to DVC's default remote, directories after their files.

    DVC's record of the remote's content is not used: it may be older than the last garbage collection.

    Raises:
        ReleaseError: DVC could not push all of them.
    """
    remote = repo.cloud.get_remote_odb(None, "publish")
    wanted = set(md5s)
    directories = {md5 for md5 in wanted if md5.endswith(".dir")}
    for some in (wanted - directories, directories):
        hashes = [HashInfo("md5", md5) for md5 in sorted(some)]
        try:
            done = repo.cloud.transfer(repo.cache.local, remote, hashes, cache_odb=repo.cache.local)
        except (OSError, BotoCoreError, ClientError) as error:
            raise _not_pushed(remote.path, str(error) or type(error).__name__) from error
        if done.failed:
            named = ", ".join(sorted(failed.value for failed in done.failed)[:3])
            raise _not_pushed(remote.path, f"{len(done.failed)} objects that DVC could not push: {named}")


def missing_objects(store: Store, sizes: Mapping[str, int]) -> list[str]:
    """The md5s whose objects the store lacks, or has with another size.

    Args:
        sizes: md5 → bytes.
    """
    found = _in_threads(lambda md5: store.size_of(object_key(md5)), list(sizes))
    return [md5 for md5, size in zip(sizes, found, strict=True) if size != sizes[md5]]


def _describe(files: Cached, path: str) -> FileEntry:
    content = files.locate(path)
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size = 0
    with content.open("rb") as stream:
        while block := stream.read(1 << 20):
            md5.update(block)
            sha256.update(block)
            size += len(block)
    if md5.hexdigest() != files.md5s[path]:
        raise BadInput(
            content,
            path,
            f"md5 {md5.hexdigest()}",
            files.md5s[path],
            "the cache is damaged; delete that file, then run `dvc fetch`, or make it again with `dvc repro --force`",
        )
    return FileEntry(path, size, md5.hexdigest(), sha256.hexdigest())


def _in_threads(work: Callable[[_Item], _Result], items: list[_Item]) -> list[_Result]:
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(work, items))


def _not_cached(path: str, md5: str) -> BadInput:
    return BadInput(
        path, "", f"no {md5} in DVC's cache", "every output in the cache", "run `dvc fetch`, or `dvc repro --force`"
    )


def _not_pushed(where: str, found: str) -> ReleaseError:
    remedy = "check the credentials (s3:GetObject, s3:PutObject, s3:ListBucket) and the network, then publish again"
    return ReleaseError(f"s3://{where}", found, "every object in the store", remedy)
