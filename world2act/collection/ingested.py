"""Ingested demonstrations: read data/ingested (tracked by DVC) as its index data/ingested.json (tracked by git) says.

Every dataset has its own folder, as it arrived; `ledger.parquet` next to them has one row per upload that was decided
on. The index names the current data version and, by one sha256, the episodes that belong to it. It changes only when
episodes are added. The stage `demos` depends on the index and not on the folder, so a clone in which nothing was ever
ingested needs neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, sha256
from world2act.core.tables import read_rows
from world2act.data.lerobot_v3 import EpisodeDataset

FOLDER, INDEX, LEDGER = Path("data/ingested"), Path("data/ingested.json"), Path("data/ingested/ledger.parquet")
KINDS = ("labelled", "video_only")
TAKEN, DUPLICATE, SET_ASIDE = OUTCOMES = ("taken", "duplicate", "set aside")
_PULL = "get it with `dvc pull data/ingested.dvc`"


@dataclass(frozen=True)
class LedgerRow:
    """The decision on one upload: a row of the ledger. The fields after `rules` are empty or 0 unless it was taken.

    Attributes:
        upload: its folder in the store.
        objects: sha256 over the names, sizes and ETags of its objects.
        count, bytes: the number of its objects and their total size.
        outcome: one of `OUTCOMES`.
        rules: sha256 over the parameters that it was judged by.
        version: the first data version that has it.
        kind: one of `KINDS`.
        dataset: its folder in data/ingested.
        episodes: indices of the episodes in the dataset that were new.
    """

    upload: str
    objects: str
    count: int
    bytes: int
    outcome: str
    reason: str
    rules: str
    version: int = 0
    kind: str = ""
    dataset: str = ""
    dataset_sha256: str = ""
    episodes: list[int] = field(default_factory=list)
    episode_sha256: list[str] = field(default_factory=list)
    frames: int = 0


class Counts(TypedDict):
    """What the data version has of one kind."""

    episodes: int
    frames: int


class Index(TypedDict):
    """The content of data/ingested.json."""

    version: int
    labelled: Counts
    video_only: Counts
    sha256: str


@dataclass(frozen=True)
class IngestedDataset:
    """One ingested dataset and the indices of its episodes that were new. `kind` is one of `KINDS`."""

    kind: str
    dataset: EpisodeDataset
    episodes: Sequence[int]


def read_ledger() -> list[LedgerRow]:
    """The rows of the ledger in the order of the decisions; empty if nothing was ever ingested here."""
    return read_rows(LEDGER, LedgerRow) if LEDGER.exists() else []


def index_of(ledger: Sequence[LedgerRow]) -> Index:
    """The content of data/ingested.json for a ledger."""
    taken = [row for row in ledger if row.outcome == TAKEN]
    digest = hashlib.sha256()
    for row in taken:
        digest.update(json.dumps([row.dataset, row.dataset_sha256, row.episodes]).encode() + b"\n")
    return {
        "version": max((row.version for row in taken), default=0),
        "labelled": _count(taken, "labelled"),
        "video_only": _count(taken, "video_only"),
        "sha256": digest.hexdigest(),
    }


def _count(taken: Sequence[LedgerRow], kind: str) -> Counts:
    rows = [row for row in taken if row.kind == kind]
    return {"episodes": sum(len(row.episodes) for row in rows), "frames": sum(row.frames for row in rows)}


def open_ingested() -> list[IngestedDataset]:
    """Open every dataset of the data version that data/ingested.json names.

    Raises:
        BadInput: the index is missing or damaged, or data/ingested is missing or differs from the index.
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
    for row in (row for row in ledger if row.outcome == TAKEN):
        folder = FOLDER / row.dataset
        if not folder.exists() or sha256(folder) != row.dataset_sha256:
            state = "other bytes" if folder.exists() else "nothing"
            raise BadInput(folder, "sha256", state, f"{row.dataset_sha256}, as the ledger says", f"{_PULL} --force")
        opened.append(IngestedDataset(row.kind, EpisodeDataset.open(folder), row.episodes))
    return opened
