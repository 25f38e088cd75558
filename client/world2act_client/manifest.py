"""The documents of a release: a manifest lists every file of one version, a pointer says which version a channel has.

Both are JSON payloads of signed envelopes (`world2act_client.signing`). They are validated on reading, whoever signed
them: a path never leaves its folder, and the location of a file in the store follows from its md5 alone, so that a
manifest cannot point elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, TypedDict

from world2act_client.errors import Tampered

MANIFEST_TYPE = "application/vnd.world2act.manifest+json"
POINTER_TYPE = "application/vnd.world2act.pointer+json"
RECORD = ".world2act-release.json"  # what `get` writes into a destination in addition to the release's files
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
CHANNEL = re.compile(r"(?!latest$|v\d+$)[a-z][a-z0-9-]*")
_MD5, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")
_REMEDY = "do not use it; publish it again with this version of world2act, or update this client"


@dataclass(frozen=True)
class FileEntry:
    """One file of a release. `path` is relative and POSIX, `size` in bytes, `md5` names the object in the store."""

    path: str
    size: int
    md5: str
    sha256: str


class LineageFile(TypedDict):
    """A file or folder that a stage reads or writes; `md5` is the hash that dvc.lock records for it."""

    path: str
    md5: str


class LineageStage(TypedDict):
    """One stage that an artifact comes from."""

    stage: str
    cmd: str
    deps: list[LineageFile]
    outs: list[LineageFile]


@dataclass(frozen=True)
class Manifest:
    """One version of a release and its origin.

    `created` is RFC 3339 in UTC. `git`: revision, url or None, modified paths. `lineage`: every stage
    upstream. `gates`: artifact → success, failed expectations. `metrics`: stage → its
    metrics. `record`: policy → episodes (task, seed, success), or empty.
    """

    name: str
    version: int
    created: str
    git: Mapping[str, Any]
    params: Mapping[str, Any]
    lineage: list[LineageStage]
    gates: Mapping[str, Any]
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    schema: int = 1

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(file.size for file in self.files)

    def to_payload(self) -> bytes:
        """The bytes to sign, always the same for the same manifest. Raises what `from_payload` raises."""
        payload = _to_json(asdict(self))
        Manifest.from_payload(payload)
        return payload

    @classmethod
    def from_payload(cls, payload: bytes, where: object = "manifest") -> Manifest:
        """Read and validate. Raises `Tampered` where it breaks the schema or names a path outside its folder."""
        value = _read(payload, cls, where)
        _check(where, NAME.fullmatch(value["name"]), value["name"], "a name of a-z, 0-9 and -")
        _check(where, value["version"] >= 1, value["version"], "a version from 1")
        files = [_read_value(entry, FileEntry, where) for entry in value["files"]]
        value["files"] = tuple(FileEntry(**entry) for entry in files)
        _check_files(value["files"], where)
        return cls(**value)


@dataclass(frozen=True)
class Pointer:
    """A channel's position: which version, and the sha256 of its manifest's payload. Serials count from 1."""

    name: str
    channel: str
    serial: int
    version: int
    manifest_sha256: str
    created: str
    note: str
    schema: int = 1

    def to_payload(self) -> bytes:
        """The bytes to sign. Raises what `from_payload` raises."""
        payload = _to_json(asdict(self))
        Pointer.from_payload(payload)
        return payload

    @classmethod
    def from_payload(cls, payload: bytes, where: object = "pointer") -> Pointer:
        """Read and validate. Raises `Tampered` where it breaks the schema."""
        value = _read(payload, cls, where)
        _check(where, NAME.fullmatch(value["name"]), value["name"], "a name of a-z, 0-9 and -")
        _check(where, CHANNEL.fullmatch(value["channel"]), value["channel"], "a channel of a-z, 0-9 and -")
        _check(where, value["serial"] >= 1, value["serial"], "a serial from 1")
        _check(where, value["version"] >= 1, value["version"], "a version from 1")
        _check(where, _SHA256.fullmatch(value["manifest_sha256"]), value["manifest_sha256"], "a sha256")
        return cls(**value)


def digest_of(payload: bytes) -> str:
    """The sha256 of a manifest's payload, by which pointers refer to it. It does not depend on the signing key."""
    return hashlib.sha256(payload).hexdigest()


def _to_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def _read(payload: bytes, shape: type, where: object) -> dict[str, Any]:
    try:
        value = json.loads(payload, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Tampered(where, str(error), "JSON", _REMEDY) from error
    value = _read_value(value, shape, where)
    _check(where, value["schema"] == 1, f"schema {value['schema']}", "schema 1")
    _check(where, _is_utc(value["created"]), value["created"], "a time as RFC 3339 in UTC")
    return value


def _read_value(value: object, shape: type, where: object) -> dict[str, Any]:
    """Check that a value is a JSON object with exactly the fields of a dataclass, with the right types."""
    names = {field.name for field in fields(shape)}
    if not isinstance(value, dict):
        raise Tampered(where, type(value).__name__, "a JSON object", _REMEDY)
    _check(where, value.keys() == names, sorted(value), f"exactly the keys {sorted(names)}")
    for field in fields(shape):
        kind = str(field.type).split("[")[0]
        wanted = {"str": str, "int": int, "Mapping": dict, "list": list, "tuple": list}[kind]
        # type, not isinstance: true is not a version
        _check(where, type(value[field.name]) is wanted, f"{field.name}: {value[field.name]!r:.80}", wanted.__name__)
    return value


def _check_files(files: Iterable[FileEntry], where: object) -> None:
    paths: set[str] = set()
    contents: dict[str, FileEntry] = {}
    for file in files:
        _check(where, _stays_inside(file.path), f"path {file.path!r}", "a relative POSIX path that stays inside")
        _check(where, file.path not in paths, f"{file.path} twice", "every path once")
        _check(where, file.size >= 0, f"{file.path}: size {file.size}", "a size of at least 0")
        _check(where, _MD5.fullmatch(file.md5), f"{file.path}: md5 {file.md5!r}", "32 hexadecimal digits")
        _check(where, _SHA256.fullmatch(file.sha256), f"{file.path}: sha256 {file.sha256!r}", "64 hexadecimal digits")
        same = contents.setdefault(file.md5, file)
        _check(
            where,
            (same.size, same.sha256) == (file.size, file.sha256),
            f"{file.path} and {same.path}: one md5, two contents",
            "one content per md5",
        )
        paths.add(file.path)
    for path in paths:
        parents = {parent.as_posix() for parent in PurePosixPath(path).parents}
        _check(where, not parents & paths, f"{path} inside {parents & paths}", "no file that is also a folder")


def _stays_inside(path: str) -> bool:
    parts = path.split("/")
    return (
        all(part not in ("", ".", "..") for part in parts)
        and "\\" not in path
        and path.isprintable()  # no NUL, line break or surrogate
        and parts[0] != RECORD
    )


def _is_utc(text: str) -> bool:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    offset = moment.utcoffset()
    return offset is not None and not offset


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _check(where: object, holds: object, found: object, expected: str) -> None:
    if not holds:
        raise Tampered(where, found, expected, _REMEDY)
