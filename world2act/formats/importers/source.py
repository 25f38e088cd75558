"""The source of an import: a folder, a file or an S3 prefix in, its files as local paths out.

S3 is accessed through s3fs; only the environment names the server and the credentials (AWS_ENDPOINT_URL, AWS_*). A file
of a bucket is on this machine only while it is read.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from world2act.core.errors import BadInput, InfrastructureError

_LARGEST_TEXT = 2**28  # bytes; text files are read in one piece
_BLOCK = 1 << 20


class Source:
    """The files of a source, by relative path.

    Attributes:
        where: the source as the user named it.
        name: the name of its folder.
        files: relative path → size in bytes, sorted.
        here: whether the files are on this machine.
        sha256: relative path → hash, for the files that have been read.
    """

    def __init__(self, where: str) -> None:
        self.where = where.rstrip("/") or where
        self.sha256: dict[str, str] = {}
        self._remote: Any = None
        self.here = "://" not in where
        if self.here:
            self._open_folder(Path(where))
        elif where.startswith("s3://"):
            self._open_bucket(where)
        else:
            expected = "a path, or s3://BUCKET/PREFIX"
            raise BadInput(where, "", where.partition("://")[0] + "://", expected, "copy the data to one of these")
        if not self.files:
            raise BadInput(where, "", "no file", "demonstrations", "name the folder or prefix that has them")

    def _open_folder(self, path: Path) -> None:
        if not path.exists():
            raise BadInput(path, "", "nothing", "a file or folder of demonstrations", "correct the path")
        self._root = path.resolve()
        found = [self._root]
        if self._root.is_dir():
            found = sorted(file for file in self._root.rglob("*") if file.is_file())
        else:
            self._root = self._root.parent
        self.name = self._root.name
        self.files = {file.relative_to(self._root).as_posix(): file.stat().st_size for file in found}

    def _open_bucket(self, where: str) -> None:
        import s3fs

        self._remote = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        prefix = where.removeprefix("s3://").strip("/")
        self.name = PurePosixPath(prefix).name
        with self._reachable():
            found = self._remote.find(prefix, detail=True)
        self.files, self._keys = {}, dict[str, str]()
        for key, details in sorted(found.items()):
            name = self.inside(key.removeprefix(prefix).strip("/") or PurePosixPath(key).name)
            self.files[name], self._keys[name] = details["size"], key

    def inside(self, name: str) -> str:
        """Check a relative path that a manifest names. Raises `BadInput` where it leaves the source."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise BadInput(self.where, name, "a path that leaves the source", "paths inside it", "do not use this data")
        return path.as_posix()

    @contextmanager
    def open(self, name: str, *, glance: bool = False) -> Iterator[Path]:
        """The file `name` as a local path that is valid inside the block. With `glance`, its sha256 is not recorded.

        Raises:
            BadInput: the file does not exist.
            InfrastructureError: the server failed.
        """
        name = self.inside(name)
        if name not in self.files:
            raise BadInput(self.where, name, "nothing", "this file", "complete the data")
        if self._remote is None:
            if not glance:
                self._hash(name, self._root / name)
            yield self._root / name
            return
        with tempfile.TemporaryDirectory(prefix="world2act-import-") as folder:
            path = Path(folder) / f"file{PurePosixPath(name).suffix}"
            with self._reachable():
                self._remote.get_file(self._keys[name], str(path))
            self._hash(name, path)
            yield path

    def text(self, name: str) -> str:
        """The content of a text file. Raises `BadInput` when it is missing, or not text."""
        with self.open(name) as path:
            if path.stat().st_size > _LARGEST_TEXT:
                raise BadInput(self.where, name, f"{path.stat().st_size} bytes", "a text file", "complete the data")
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(self.where, name, str(error), "UTF-8 text", "write the file again") from error

    def json(self, name: str) -> Any:
        """The content of a JSON file. Raises `BadInput` when it is missing, or not JSON."""
        return self._parsed(name, self.text(name))

    def json_lines(self, name: str) -> list[Any]:
        """The content of a JSON Lines file. Raises `BadInput` when it is missing, or a line is not JSON."""
        return [self._parsed(name, line) for line in self.text(name).splitlines() if line.strip()]

    def _parsed(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise BadInput(self.where, name, error, "valid JSON", "write the file again") from error

    def _hash(self, name: str, path: Path) -> None:
        if name not in self.sha256:
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
            self.sha256[name] = digest.hexdigest()

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except FileNotFoundError as error:
            raise BadInput(
                self.where, "", "no such bucket or object", "an existing S3 prefix", "correct the URL"
            ) from error
        except (OSError, BotoCoreError, ClientError) as error:
            raise InfrastructureError(
                f"{self.where}\n  found:    {type(error).__name__}: {error}\n  expected: an S3 server that answers"
                "\n  remedy:   check AWS_ENDPOINT_URL, the AWS_* credentials (s3:GetObject, s3:ListBucket), the network"
            ) from error
