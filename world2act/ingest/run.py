"""One pass over the uploads below a prefix of the store, which ends in a data version.

Every upload is decided on once, by the digest of its objects: it is taken, a duplicate, or set aside until its objects
or the rules change. The ledger with the decisions is part of the data version, so the two cannot disagree. An upload
that is incomplete, or changed while it was read, is not decided on; the next pass looks at it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from world2act_client.errors import Conflict, NotFound
from world2act_client.store import Store

from world2act.collection.ingested import DUPLICATE, SET_ASIDE, TAKEN, Index, LedgerRow, index_of
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
    """An upload that was not decided on. `stale`: its last object arrived longer ago than the limit."""

    folder: str
    reason: str
    stale: bool


@dataclass
class Pass:
    """What a pass saw and did.

    Attributes:
        index: the content of data/ingested.json after the pass.
        decided: the rows that the pass added to the ledger.
        standing: folder → reason, of unchanged uploads that an earlier pass set aside.
        waiting: uploads that were not decided on.
        known: the number of uploads that earlier passes decided on.
        objects: the number of listed objects.
        strays: the objects that belong to no dataset.
    """

    index: Index = field(default_factory=lambda: index_of([]))
    decided: list[LedgerRow] = field(default_factory=list)
    standing: dict[str, str] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    known: int = 0
    objects: int = 0
    strays: Strays = field(default_factory=Strays)

    @property
    def episodes(self) -> int:
        """Episodes that this pass added."""
        return sum(len(row.episodes) for row in self.decided)

    def count(self, outcome: str) -> int:
        """The number of uploads that this pass decided on with an outcome."""
        return sum(row.outcome == outcome for row in self.decided)


class _Decisions:
    """The ledger and the rows that a pass adds to it. Uploads that other rules set aside are decided on again."""

    def __init__(self, ledger: list[LedgerRow], rules: str) -> None:
        self.rows, self.known, self._rules = ledger, len(ledger), rules
        valid = [row for row in ledger if row.outcome != SET_ASIDE or row.rules == rules]
        self._by_upload = {(row.upload, row.objects): row for row in valid}
        self._by_objects = {row.objects: row for row in valid}
        self._episodes = {sha256 for row in ledger for sha256 in row.episode_sha256}
        self._version = index_of(ledger)["version"] + 1

    def find(self, folder: str, objects: str) -> LedgerRow | None:
        """The decision on an upload while it had these objects."""
        return self._by_upload.get((folder, objects))

    def find_objects(self, objects: str) -> LedgerRow | None:
        """The decision on these objects in any folder: it applies to the same objects elsewhere."""
        return self._by_objects.get(objects)

    def add(self, upload: Upload, outcome: str, reason: str) -> None:
        self._append(self._row(upload, outcome, reason))

    def take(self, measured: Measured) -> str | None:
        """Take the episodes that are new. Returns the dataset's name, or None if no episode is new."""
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
        reason = f"{before} of its episodes were ingested before" if before else ""
        row = replace(
            self._row(measured.upload, TAKEN, reason),
            version=self._version,
            kind=measured.kind,
            dataset=dataset,
            dataset_sha256=sha256(measured.folder),
            episodes=new,
            episode_sha256=[measured.sha256[index] for index in new],
            frames=sum(measured.lengths[index] for index in new),
        )
        self._append(row)
        return dataset

    def _row(self, upload: Upload, outcome: str, reason: str) -> LedgerRow:
        return LedgerRow(
            upload=upload.folder,
            objects=upload.digest,
            count=len(upload.files),
            bytes=upload.size,
            outcome=outcome,
            reason=reason,
            rules=self._rules,
        )

    def _append(self, row: LedgerRow) -> None:
        self.rows.append(row)
        self._by_upload[row.upload, row.objects] = self._by_objects[row.objects] = row


def run_pass(store: Store, prefix: str, params: Params, *, stale_after: timedelta, commit: bool) -> Pass:
    """Decide on everything below `prefix`. No other pass may use the workspace in the current folder meanwhile.

    Args:
        prefix: in the store; ends with "/".
        stale_after: how long an incomplete upload may receive nothing before it counts as stale.
        commit: commit data/ingested.dvc and data/ingested.json to git.

    Raises:
        BadInput: data/ingested differs from what DVC and git record.
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
    """Download every complete upload that was not decided on; record the state of the others in `seen`."""
    for upload in group(_counted(store.list(prefix), seen), seen.strays):
        digest = upload.digest
        if decision := decisions.find(upload.folder, digest):
            seen.known += 1
            if decision.outcome == SET_ASIDE:
                seen.standing[upload.folder] = decision.reason
        elif twin := decisions.find_objects(digest):
            aside = twin.outcome == SET_ASIDE
            reason = twin.reason if aside else f"the same objects as {twin.upload}"
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
    """Decide on complete uploads. Returns the name → the folder of every accepted dataset."""
    simulator = load_simulator(params.demos.simulator)
    measured, datasets = [], {}
    for upload, folder in complete:
        try:
            measured.append(measure(upload, folder, params.demos, simulator))
        except BadInput as error:
            decisions.add(upload, SET_ASIDE, _reason(error, upload))
    faults = find_faults(measured, params.gates.demos)
    for candidate in measured:
        if candidate.upload.folder in faults:
            decisions.add(candidate.upload, SET_ASIDE, faults[candidate.upload.folder])
        elif dataset := decisions.take(candidate):
            datasets[dataset] = candidate.folder
    return datasets


def _counted(listing: Iterable[tuple[str, int, str, datetime]], seen: Pass) -> Iterator[tuple[str, int, str, datetime]]:
    for listed in listing:
        seen.objects += 1
        yield listed


def _reason(error: BadInput, upload: Upload) -> str:
    """The error in one line, with the upload's folder instead of the staged one, so it is the same on every machine."""
    place = f"{error.where}: {error.key}" if error.key else error.where
    text = f"{place}: found {error.found}, expected {error.expected}"
    staged = str(STAGED / upload.digest)
    return text.replace(f"{staged}.partial", upload.folder).replace(staged, upload.folder)[:_LONGEST_REASON]
