"""Demonstrations that were ingested: data/ingested (DVC's) and its index data/ingested.json (git's) in, datasets out.

Every dataset lies in a folder of its own as it arrived; `ledger.parquet` beside them has one row for each upload that
was decided on. The index says which data version stands, and by one sha256 which episodes belong to it. It changes
only when episodes are added: it, and not the folder, is what the stage `demos` depends on, so that a clone in which
nothing was ever ingested needs neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.core.tables import schema_of
from world2act.data.lerobot_v3 import EpisodeDataset

FOLDER, INDEX, LEDGER = Path("data/ingested"), Path("data/ingested.json"), Path("data/ingested/ledger.parquet")
KINDS = ("labelled", "video_only")
TAKEN, DUPLICATE, SET_ASIDE = OUTCOMES = ("taken", "duplicate", "set aside")
_PULL = "get it with `dvc pull data/ingested.dvc`"


@dataclass(frozen=True)
class LedgerRow:
    """The decision on one upload: a row of the ledger. What follows `rules` is empty or 0 unless it was taken.

    Attributes:
        upload: its folder in the store.
        objects: sha256 over the names, sizes and ETags of its objects; count, bytes: of those objects.
        outcome: one of `OUTCOMES`.
        rules: sha256 over what was asked of it.
        version: the data version that it came with.
        kind: one of `KINDS`.
        dataset: its folder in data/ingested.
        episodes: the episodes of the dataset that were new.
    """

    upload: str
    objects: str
    count: int
    bytes: int
    outcome: str
    reason: str
    rules: str
    version: int
    kind: str
    dataset: str
    dataset_sha256: str
    episodes: list[int]
    episode_sha256: list[str]
    frames: int


@dataclass(frozen=True)
class IngestedDataset:
    """One dataset that was ingested, and which of its episodes were new then. `kind` is one of `KINDS`."""

    kind: str
    dataset: EpisodeDataset
    episodes: Sequence[int]


def read_ledger() -> list[dict[str, Any]]:
    """The rows of the ledger in the order they were decided, none where nothing was ever ingested here."""
    return read_parquet(LEDGER, schema_of(LedgerRow).names).to_pylist() if LEDGER.exists() else []


def index_of(ledger: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What data/ingested.json says of a ledger."""
    taken = [row for row in ledger if row["outcome"] == TAKEN]
    digest = hashlib.sha256()
    for row in taken:
        digest.update(json.dumps([row[name] for name in ("dataset", "dataset_sha256", "episodes")]).encode() + b"\n")
    index: dict[str, Any] = {"version": max((row["version"] for row in taken), default=0)}
    for kind in KINDS:
        rows = [row for row in taken if row["kind"] == kind]
        index[kind] = {
            "episodes": sum(len(row["episodes"]) for row in rows),
            "frames": sum(row["frames"] for row in rows),
        }
    return index | {"sha256": digest.hexdigest()}


def open_ingested() -> list[IngestedDataset]:
    """Open every dataset of the data version that data/ingested.json names.

    Raises:
        BadInput: the index is missing or damaged, or data/ingested is missing, or is not what the index names.
    """
    index = read_json(INDEX)
    if index == index_of([]):
        return []
    if not LEDGER.exists():
        raise BadInput(FOLDER, "", "nothing", f"data version {index.get('version')}, as {INDEX} says", _PULL)
    ledger = read_ledger()
    if (found := index_of(ledger)) != index:
        raise BadInput(FOLDER, LEDGER.name, found, f"{index}, as {INDEX} says", f"{_PULL} --force")
    opened = []
    for row in (row for row in ledger if row["outcome"] == TAKEN):
        folder = FOLDER / row["dataset"]
        if not folder.exists() or sha256(folder) != row["dataset_sha256"]:
            state = "other bytes" if folder.exists() else "nothing"
            raise BadInput(folder, "sha256", state, f"{row['dataset_sha256']}, as the ledger says", f"{_PULL} --force")
        opened.append(IngestedDataset(row["kind"], EpisodeDataset.open(folder), row["episodes"]))
    return opened
