"""One pass over the uploads below a prefix of the store: objects come in, a data version and a `Pass` go out.

Each upload is decided on once, by the digest of its objects: taken, a duplicate, or set aside (until its objects
change, or what is asked of them). The decision stands in the ledger, which is part of the data version itself, so
that the two cannot disagree. What is incomplete, or changed
while it was read, is not decided on and looked at again by the next pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from world2act_client.errors import Conflict, NotFound
from world2act_client.store import Store

from world2act.collection.ingested import DUPLICATE, SET_ASIDE, TAKEN, index_of
from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.storage import sha256
from world2act.ingest.staging import STAGED, Incomplete, stage
from world2act.ingest.uploads import Strays, Upload, group
from world2act.ingest.validation import Measured, find_faults, measure, rules_of
from world2act.ingest.version import advance, synchronise
from world2act.sims.simulator import load_simulator

_LONGEST_REASON = 1000


@dataclass(frozen=True)
class Waiting:
    """An upload that was not decided on. `stale`: nothing of it has arrived for longer than the limit."""

    folder: str
    reason: str
    stale: bool


@dataclass
class Pass:
    """What a pass saw and did.

    Attributes:
        index: data/ingested.json afterwards.
        decided: the rows that the ledger gained.
        standing: folder → why it is set aside, of uploads that were decided on before and are unchanged.
        waiting: what was not decided on.
        known: uploads that were decided on before.
        objects, strays: listed in all, and those that belong to no dataset.
    """

    index: dict[str, Any] = field(default_factory=dict)
    decided: list[dict[str, Any]] = field(default_factory=list)
    standing: dict[str, str] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    known: int = 0
    objects: int = 0
    strays: Strays = field(default_factory=Strays)

    @property
    def episodes(self) -> int:
        """Episodes that this pass added."""
        return sum(len(row["episodes"]) for row in self.decided)

    def count(self, outcome: str) -> int:
        """Uploads that this pass decided so."""
        return sum(row["outcome"] == outcome for row in self.decided)


class _Decisions:
    """The ledger, and the rows that a pass adds to it. What other rules set aside may be decided on again."""

    def __init__(self, ledger: list[dict[str, Any]], rules: str) -> None:
        self.rows, self.known, self._rules = ledger, len(ledger), rules
        valid = [row for row in ledger if row["outcome"] != SET_ASIDE or row["rules"] == rules]
        self._by_place = {(row["upload"], row["objects"]): row for row in valid}
        self._by_objects = {row["objects"]: row for row in valid}
        self._episodes = {sha256 for row in ledger for sha256 in row["episode_sha256"]}
        self._version = index_of(ledger)["version"] + 1

    def find(self, folder: str, objects: str) -> dict[str, Any] | None:
        """What was decided on this upload while it had these objects."""
        return self._by_place.get((folder, objects))

    def find_objects(self, objects: str) -> dict[str, Any] | None:
        """What was decided on these objects, wherever they lay: it holds elsewhere too."""
        return self._by_objects.get(objects)

    def add(self, upload: Upload, outcome: str, reason: str, **taken: Any) -> None:
        nothing = {"version": 0, "kind": "", "dataset": "", "dataset_sha256": "", "frames": 0}
        objects = upload.digest
        row = {
            "upload": upload.folder,
            "objects": objects,
            "count": len(upload.files),
            "bytes": upload.size,
            "outcome": outcome,
            "reason": reason,
            "rules": self._rules,
            **nothing,
            "episodes": [],
            "episode_sha256": [],
            **taken,
        }
        self.rows.append(row)
        self._by_place[upload.folder, objects] = self._by_objects[objects] = row

    def take(self, measured: Measured) -> str | None:
        """Take the episodes that nothing before had, each once. Returns: the dataset's name, None without any."""
        new = []
        for index, episode in enumerate(measured.sha256):
            if episode not in self._episodes:
                self._episodes.add(episode)
                new.append(index)
        if not new:
            self.add(measured.upload, DUPLICATE, "all of its episodes were ingested before")
            return None
        before = len(measured.sha256) - len(new)
        dataset = measured.upload.digest[:16]
        self.add(
            measured.upload,
            TAKEN,
            f"{before} of its episodes were ingested before" if before else "",
            version=self._version,
            kind=measured.kind,
            dataset=dataset,
            dataset_sha256=sha256(measured.folder),
            episodes=new,
            episode_sha256=[measured.sha256[index] for index in new],
            frames=sum(measured.lengths[index] for index in new),
        )
        return dataset


def run_pass(store: Store, prefix: str, params: Params, *, stale_after: timedelta, commit: bool) -> Pass:
    """Look at everything below `prefix`, in the workspace in the current folder, which is this pass's alone.

    Args:
        prefix: in the store; ends with "/".
        stale_after: how long an incomplete upload may rest before it counts as stale.
        commit: commit data/ingested.dvc and data/ingested.json to git.

    Raises:
        BadInput: data/ingested is not what DVC and git say.
        ReleaseError: the store failed.
        InfrastructureError: DVC or git failed, or a disk is full.
    """
    decisions = _Decisions(synchronise(commit=commit), rules_of(params))
    seen = Pass()
    complete = list(_bring(store, prefix, decisions, seen, store.clock() - stale_after))
    datasets = _judge(complete, decisions, params) if complete else {}
    seen.decided = decisions.rows[decisions.known :]
    if seen.decided:
        advance(decisions.rows, datasets, commit=commit)
    shutil.rmtree(STAGED, ignore_errors=True)
    seen.index = index_of(decisions.rows)
    return seen


def _bring(
    store: Store, prefix: str, decisions: _Decisions, seen: Pass, stale_before: datetime
) -> Iterator[tuple[Upload, Path]]:
    """Bring every complete upload here that was not decided on; note what becomes of the others."""
    for upload in group(_counted(store.list(prefix), seen), seen.strays):
        digest = upload.digest
        if decision := decisions.find(upload.folder, digest):
            seen.known += 1
            if decision["outcome"] == SET_ASIDE:
                seen.standing[upload.folder] = decision["reason"]
        elif twin := decisions.find_objects(digest):
            aside = twin["outcome"] == SET_ASIDE
            reason = twin["reason"] if aside else f"the same objects as {twin['upload']}"
            decisions.add(upload, SET_ASIDE if aside else DUPLICATE, reason)
        else:
            try:
                yield upload, stage(store, upload)
            except Incomplete as error:
                seen.waiting.append(Waiting(upload.folder, str(error), upload.written < stale_before))
            except (Conflict, NotFound) as error:
                seen.waiting.append(Waiting(upload.folder, f"it changed while it was read: {error.where}", False))
            except BadInput as error:
                decisions.add(upload, SET_ASIDE, _reason(error, upload))


def _judge(complete: Sequence[tuple[Upload, Path]], decisions: _Decisions, params: Params) -> dict[str, Path]:
    """Decide on complete uploads. Returns: name of each accepted dataset → its folder."""
    simulator = load_simulator(params.demos.simulator)
    measured, datasets = [], {}
    for upload, folder in complete:
        try:
            measured.append(measure(upload, folder, params.demos, simulator))
        except BadInput as error:
            decisions.add(upload, SET_ASIDE, _reason(error, upload))
    faults = find_faults(measured, params.gates.demos)
    for each in measured:
        if each.upload.folder in faults:
            decisions.add(each.upload, SET_ASIDE, faults[each.upload.folder])
        elif dataset := decisions.take(each):
            datasets[dataset] = each.folder
    return datasets


def _counted(listing: Iterable[tuple[str, int, str, datetime]], seen: Pass) -> Iterator[tuple[str, int, str, datetime]]:
    for each in listing:
        seen.objects += 1
        yield each


def _reason(error: BadInput, upload: Upload) -> str:
    """In one line, with the upload's folder for the place where it was staged, so that it is the same everywhere."""
    place = f"{error.where}: {error.key}" if error.key else error.where
    text = f"{place}: found {error.found}, expected {error.expected}"
    staged = str(STAGED / upload.digest)
    return text.replace(f"{staged}.partial", upload.folder).replace(staged, upload.folder)[:_LONGEST_REASON]
