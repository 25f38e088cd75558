"""Download an upload, its objects pinned by their ETags, into a folder that holds the complete dataset.

Everything that arrives is untrusted. Only names of the layout are written, so nothing is written outside the folder,
and the dataset's metadata is checked before the reader, which trusts it, opens the dataset.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from world2act_client.store import Store

from world2act.core.errors import BadInput, World2ActError
from world2act.core.stage import RUNS
from world2act.core.storage import read_json, read_parquet
from world2act.data.info import DATA_PATH, VERSION
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.ingest.uploads import Upload

STAGED = RUNS / "ingest/staged"
_THREADS = 8
_SINGLE = ("meta/info.json", "meta/stats.json", "meta/tasks.parquet")
_LARGEST_INFO = 2**26  # bytes; it is read into memory
_RECORD_AGAIN = "record or export it again, then upload it again"
_EPISODES = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("tasks", pa.list_(pa.string())),
        ("length", pa.int64()),
        ("data/chunk_index", pa.int64()),
        ("data/file_index", pa.int64()),
        ("task_key", pa.string()),
        ("seed", pa.int64()),
    ]
)

_Count = Annotated[int, Field(ge=1)]


class _Feature(BaseModel):
    model_config = ConfigDict(strict=True)

    dtype: str
    shape: list[Annotated[int, Field(ge=1, le=8192)]]


class _Info(BaseModel):
    """What the reader takes from info.json without checking it."""

    model_config = ConfigDict(strict=True)

    codebase_version: Literal[VERSION]  # type: ignore[valid-type]
    data_path: Literal[DATA_PATH]  # type: ignore[valid-type]
    total_episodes: _Count
    total_frames: _Count
    fps: float
    features: dict[str, _Feature] = Field(min_length=1)
    splits: dict[str, str]


class Incomplete(World2ActError):
    """Some objects of the upload have not arrived; look at it again later."""


def stage(store: Store, upload: Upload) -> Path:
    """Download the upload's files. A folder that exists is complete, because its name is the upload's digest.

    Raises:
        Incomplete: something that info.json declares has not arrived.
        BadInput: what has arrived can never become a dataset.
        Conflict, NotFound: an object was replaced or deleted since it was listed.
        ReleaseError: the store failed.
    """
    target = STAGED / upload.digest
    if target.exists():
        return target
    for name in _SINGLE:
        if name not in upload.files:
            raise Incomplete(f"{name} has not arrived")
    if (size := upload.files[_SINGLE[0]].size) > _LARGEST_INFO:
        raise BadInput(f"{upload.folder}/{_SINGLE[0]}", "", f"{size} bytes", f"at most {_LARGEST_INFO}", _RECORD_AGAIN)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _fetch(store, upload, partial, [name for name in upload.files if name.startswith("meta/")])
        needed = _declared_files(partial)
        missing = sorted(needed - upload.files.keys())
        if missing:
            raise Incomplete(f"{missing[0]} has not arrived" + f", nor {len(missing) - 1} others" * (len(missing) > 1))
        _fetch(store, upload, partial, needed)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def open_staged(folder: Path) -> EpisodeDataset:
    """Open a dataset that `stage` downloaded. Raises `BadInput` if its files differ from its metadata."""
    dataset = EpisodeDataset.open(folder)
    dataset.verify()
    return dataset


def _fetch(store: Store, upload: Upload, folder: Path, names: Iterable[str]) -> None:
    def download(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{upload.folder}/{name}", upload.files[name].etag, folder / name)

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(download, names):
            pass


def _declared_files(folder: Path) -> set[str]:
    """The data files that the episodes table names, once it has as many episodes as info.json declares."""
    path = folder / "meta/info.json"
    try:
        info = _Info.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise BadInput(path, key, f"{fault['input']!r:.80}", fault["msg"], _RECORD_AGAIN) from error
    tables = [_episodes(file) for file in sorted((folder / "meta/episodes").glob("*/*.parquet"))]
    found = sum(map(len, tables))
    if found < info.total_episodes:
        raise Incomplete(f"meta/episodes holds {found} of {info.total_episodes} episodes")
    table = pa.concat_tables(tables)
    if table["episode_index"].to_pylist() != list(range(info.total_episodes)):
        expected = f"the {info.total_episodes} episodes of info.json in order"
        raise BadInput(folder / "meta/episodes", "episode_index", f"{found} episodes", expected, _RECORD_AGAIN)
    locations = zip(table["data/chunk_index"].to_pylist(), table["data/file_index"].to_pylist(), strict=True)
    return {DATA_PATH.format(chunk_index=chunk, file_index=file) for chunk, file in locations}


def _episodes(path: Path) -> pa.Table:
    table = read_parquet(path, _EPISODES.names).select(_EPISODES.names)
    try:
        table = table.cast(_EPISODES)
    except pa.ArrowException as error:
        raise BadInput(path, "", str(error).splitlines()[0], _EPISODES.to_string(), _RECORD_AGAIN) from error
    for name in _EPISODES.names:
        least = {"length": 2, "seed": None}.get(name, 0)
        for row, value in enumerate(table[name].to_pylist()):
            missing = value in (None, "") or (isinstance(value, list) and not (value and all(value)))
            if missing or (isinstance(value, int) and least is not None and value < least):
                expected = "a value" if missing else f"at least {least}"
                raise BadInput(path, f"row {row}, {name}", value, expected, _RECORD_AGAIN)
    return table
