"""Whether a staged upload may join the data: its episodes are measured as the gate of `demos` measures them.

The expectations and thresholds are those of the gate of `demos` (`world2act.gates.engine.episodes`, `gates.demos` in
params.yaml), so an upload that is taken here does not turn that gate red.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.collection.form import check_recording
from world2act.core.errors import BadInput
from world2act.core.params import Demos, Params
from world2act.core.params.gates import GateDemos
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, PHASE
from world2act.gates.engine.episodes import (
    ActionMeasures,
    AlignmentMeasures,
    EpisodeMeasures,
    actions_table,
    alignment_table,
    episodes_table,
    measure_actions,
    measure_alignment,
    measure_episode,
)
from world2act.ingest.staging import open_staged
from world2act.ingest.uploads import Upload
from world2act.sims.simulator import Simulator

_AGAIN = "record the episode again"


@dataclass(frozen=True)
class _Episode(EpisodeMeasures):
    upload: str


@dataclass(frozen=True)
class _Actions(ActionMeasures):
    upload: str


@dataclass(frozen=True)
class _Alignment(AlignmentMeasures):
    upload: str


@dataclass(frozen=True)
class Measured:
    """A readable dataset and its measurements.

    Attributes:
        kind: "labelled" if it has actions, else "video_only".
        lengths: frames per episode.
        sha256: per episode, of its task, pixels and numbers; the same for the same demonstration in any file.
        rows, actions: one row per episode, for the gate's tables.
        alignment: of actions and motion in the whole upload; None without actions.
    """

    upload: Upload
    folder: Path
    kind: str
    lengths: Sequence[int]
    sha256: Sequence[str]
    rows: Sequence[EpisodeMeasures]
    actions: Sequence[ActionMeasures]
    alignment: AlignmentMeasures | None


def rules_of(params: Params) -> str:
    """sha256 over the parameters that decide whether an upload may join."""
    demos = params.demos.model_dump(mode="json", include={"simulator", "tasks", "cameras", "image_size"})
    rules = json.dumps([demos, params.gates.demos.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(rules.encode()).hexdigest()


def measure(upload: Upload, folder: Path, demos: Demos, simulator: Simulator) -> Measured:
    """Read and measure every frame and number of a staged upload.

    Raises:
        BadInput: it is damaged, or differs from the pipeline in embodiment, features, rate, cameras or tasks.
    """
    dataset = open_staged(folder)
    check_recording(dataset, simulator, demos)
    for record in dataset.episodes:
        if record.task not in demos.tasks:
            place = f"episode {record.index}, task_key"
            expected, remedy = f"one of {demos.tasks}", "add the task to demos.tasks"
            raise BadInput(folder / "meta/episodes", place, record.task, expected, remedy)
    labelled = ACTION in dataset.features
    indices = range(len(dataset))
    sha256 = [_content(dataset, index) for index in indices]
    rows = [measure_episode(dataset, index)[0] for index in indices]
    actions = [measure_actions(dataset, index) for index in indices] if labelled else []
    finite = all(row.finite for row in rows) and all(row.finite for row in actions)
    alignment = measure_alignment(dataset, indices) if labelled and finite else None
    kind = "labelled" if labelled else "video_only"
    return Measured(upload, folder, kind, dataset.lengths, sha256, rows, actions, alignment)


def find_faults(measured: Sequence[Measured], limits: GateDemos) -> dict[str, str]:
    """Check the gate's expectations for all uploads of a pass at once, because loading the gate takes seconds.

    Returns:
        The folder → the reason, of every upload that may not join.
    """
    from world2act.gates.engine.judge import find_failures

    by_upload = [(found.upload.folder, found) for found in measured]
    episodes = [_Episode(**vars(row), upload=upload) for upload, found in by_upload for row in found.rows]
    actions = [_Actions(**vars(row), upload=upload) for upload, found in by_upload for row in found.actions]
    alignments = [_Alignment(**vars(found.alignment), upload=upload) for upload, found in by_upload if found.alignment]
    tables = [episodes_table(_Episode, episodes, ("upload", "episode"), limits, _AGAIN)] if episodes else []
    if actions:
        tables.append(actions_table(_Actions, actions, ("upload", "episode"), _AGAIN))
    if alignments:
        tables.append(alignment_table(_Alignment, alignments, ("upload",), limits))
    faults: dict[str, list[str]] = {}
    for failure in find_failures("ingest", tables):
        episode = f"episode {failure.row['episode']}: " if "episode" in failure.row else ""
        reason = f"{episode}{failure.check.meaning} Found {failure.found}, expected {failure.check.expected}."
        faults.setdefault(str(failure.row["upload"]), []).append(reason)
    return {folder: reasons[0] + _more(reasons) for folder, reasons in faults.items()}


def _more(reasons: Sequence[str]) -> str:
    return f" ({len(reasons) - 1} more)" if len(reasons) > 1 else ""


def _content(dataset: EpisodeDataset, index: int) -> str:
    episode = dataset.encoded(index)
    digest = hashlib.sha256(f"{episode.task}\0{episode.length}\0".encode())
    for camera in sorted(episode.pngs):
        digest.update(f"{camera}\0".encode() + dataset.frames(index, camera).tobytes())
    for name in sorted(episode.arrays.keys() - {PHASE}):
        digest.update(f"{name}\0".encode() + np.ascontiguousarray(episode.arrays[name]).tobytes())
    return digest.hexdigest()
