"""The gate of artifacts/demos: measures episodes and initial states."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from world2act.core.params import Params
from world2act.core.tables import read_rows
from world2act.data.features import element_names
from world2act.data.initial_states import InitialStateRow
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import SCENE
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
from world2act.gates.engine.measurements import readable
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import at_least, at_most, equal, expect, rebuild

_VARIES_M = 1e-3
_REBUILD = rebuild("demos")
_LAG_REMOVED = "Imported data were shifted by the lag that was measured between their actions and their motion."
_DECLARE_LAG = (
    "import the source again with its true lag (`world2act import --lag`); if nothing could be measured, name the "
    "elements of motion and position (`--rename`)"
)
_SCENE_VISIBLE = (
    "The scene can be read from the conditioning frame: ridge regression from the first frame's pixels finds every "
    "position that varies, in episodes it was not fitted to (R²)."
)
_OTHER_SCENE = (
    "the first frame shows another scene or hides the object: raise demos.settle_steps, or move the first of "
    "demos.cameras"
)
_EVERY_TASK = "Every task occurs in every set, and in the held-out part of both datasets."
_MORE_EPISODES = "raise demos.*_per_task or demos.heldout_share"
_DISJOINT = "The four sets are disjoint: no scene seed occurs in two of them."
_LEAKED_SCENES = f"the policy would be tested on scenes it was trained in: {_REBUILD}"
_NO_ACTIONS = "The video-only set holds no action, under any name."
_LEAKED_ACTIONS = f"the world model must not see actions: {_REBUILD}"


@dataclass(frozen=True)
class _Episode(EpisodeMeasures):
    dataset: str


@dataclass(frozen=True)
class _Task(AlignmentMeasures):
    task: str


@dataclass(frozen=True)
class _Source:
    """An imported dataset, and its lag in steps as declared and as measured; None where it is unknown."""

    dataset: str
    declared_lag: int | None
    measured_lag: int | None


@dataclass(frozen=True)
class _Position:
    task: str
    position: str
    r2: float


@dataclass(frozen=True)
class _Set:
    set: str
    task: str
    count: int


@dataclass(frozen=True)
class _Seed:
    """A scene, and the sets in which it occurs."""

    seed: int
    sets: str
    set_count: int


@dataclass(frozen=True)
class _Column:
    column: str


@dataclass(frozen=True)
class _FirstFrame:
    """Pixels (P,) and scene (S,) of an episode's first frame."""

    pixels: np.ndarray
    scene: np.ndarray


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/demos. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.demos, artifacts / "demos"
    datasets = {name: EpisodeDataset.open(root / name) for name in ("labelled", "video_only")}
    labelled = datasets["labelled"]
    states = read_rows(root / "initial_states.parquet", InitialStateRow)
    episodes: list[_Episode] = []
    first_frames: dict[str, list[_FirstFrame]] = defaultdict(list)
    for name, dataset in datasets.items():
        for record in dataset.episodes:
            measures, pixels, scene = measure_episode(dataset, record.index)
            episodes.append(_Episode(**vars(measures), dataset=name))
            if scene is not None:
                first_frames[record.task].append(_FirstFrame(pixels, scene))
    actions = [measure_actions(labelled, record.index) for record in labelled.episodes]
    positions = _position_rows(first_frames, labelled)
    position_checks = [at_least("r2", limits.scene_r2, _SCENE_VISIBLE, remedy=_OTHER_SCENE)]
    return [
        episodes_table(_Episode, episodes, ("dataset", "episode", "task", "seed"), limits, _REBUILD),
        actions_table(ActionMeasures, actions, ("episode", "task", "seed"), _REBUILD),
        alignment_table(_Task, _task_rows(labelled), ("task", "episodes"), limits),
        sources_table(labelled),
        Table.of("positions", _Position, positions, ("task", "position"), position_checks),
        *_set_tables(datasets, states, params.demos.tasks),
    ]


def sources_table(dataset: EpisodeDataset) -> Table:
    """What must hold of imported datasets: the lag removed from a source is the one that was measured."""
    sources = dataset.info.get("world2act", {}).get("recorded", {})
    rows = [
        _Source(name, alignment.get("declared_lag"), alignment.get("measured_lag"))
        for name, alignment in sources.items()
    ]
    checks = [equal("declared_lag", "measured_lag", _LAG_REMOVED, remedy=_DECLARE_LAG)]
    return Table.of("sources", _Source, rows, ("dataset",), checks)


def _set_tables(
    datasets: Mapping[str, EpisodeDataset], states: Sequence[InitialStateRow], tasks: Sequence[str]
) -> list[Table]:
    """How the sets divide the scenes: tasks in each set, sets of each seed, and what the video-only set stores."""
    task_checks = [at_least("count", 1, _EVERY_TASK, remedy=_MORE_EPISODES)]
    seed_checks = [at_most("set_count", 1, _DISJOINT, remedy=_LEAKED_SCENES)]
    column_checks = [
        expect("column_values_to_not_match_regex", ["column"], _NO_ACTIONS, remedy=_LEAKED_ACTIONS, regex="(?i)action")
    ]
    columns = map(_Column, _stored_columns(datasets["video_only"]))
    return [
        Table.of("sets", _Set, _set_rows(datasets, states, tasks), ("set", "task"), task_checks),
        Table.of("seeds", _Seed, _seed_rows(datasets, states), ("seed", "sets"), seed_checks),
        Table.of("video_columns", _Column, columns, ("column",), column_checks),
    ]


def _task_rows(dataset: EpisodeDataset) -> list[_Task]:
    episodes = defaultdict(list)
    for record in dataset.episodes:
        episodes[record.task].append(record.index)
    return [_Task(**vars(measure_alignment(dataset, indices)), task=task) for task, indices in episodes.items()]


def _position_rows(first_frames: Mapping[str, Sequence[_FirstFrame]], dataset: EpisodeDataset) -> list[_Position]:
    rows = []
    for task, frames in first_frames.items():
        names = element_names(dataset.features, SCENE)
        pixels, scenes = np.stack([frame.pixels for frame in frames]), np.stack([frame.scene for frame in frames])
        varying = np.flatnonzero(scenes.std(0) > _VARIES_M)
        scores = readable(pixels, scenes[:, varying])
        rows += [_Position(task, names[i], float(score)) for i, score in zip(varying, scores, strict=True)]
    return rows


def _set_rows(
    datasets: Mapping[str, EpisodeDataset], states: Sequence[InitialStateRow], tasks: Sequence[str]
) -> list[_Set]:
    counts = Counter((state.set, state.task) for state in states)
    for name, dataset in datasets.items():
        counts.update((f"{name} {episode.subset}", episode.task) for episode in dataset.episodes)
    sets = [f"{name} {subset}" for name in datasets for subset in ("train", "heldout")] + ["post_training", "test"]
    return [_Set(name, task, counts[name, task]) for name in sets for task in tasks]


def _seed_rows(datasets: Mapping[str, EpisodeDataset], states: Sequence[InitialStateRow]) -> list[_Seed]:
    sets: dict[int, set[str]] = defaultdict(set)
    for name, dataset in datasets.items():
        for episode in dataset.episodes:
            sets[episode.seed].add(name)
    for state in states:
        sets[state.seed].add(state.set)
    return [_Seed(seed, ", ".join(sorted(names)), len(names)) for seed, names in sorted(sets.items())]


def _stored_columns(dataset: EpisodeDataset) -> list[str]:
    """The columns in the files themselves, whatever info.json says."""
    files = sorted((dataset.path / "data").glob("*/*.parquet"))
    return sorted({name for file in files for name in pq.read_schema(file).names} | set(dataset.features))
