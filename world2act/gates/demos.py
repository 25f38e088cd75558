"""The gate of artifacts/demos: measures episodes and initial states.

Uploads are held to the same tables before they may join (`world2act.ingest.validation`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.params.gates import GateDemos
from world2act.core.storage import read_parquet
from world2act.data.features import element_names
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, EXECUTED, SCENE, STATE
from world2act.formats.action_lag import motion_axes, response_onset
from world2act.gates.engine.measurements import is_finite, readable
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import at_least, at_most, between, equal, expect, is_true, rebuild

_FRAMES = 5
_VARIES_M = 1e-3
_REBUILD = rebuild("demos")
_CHECK_RENDERER = "frames are blank: check MUJOCO_GL and that no simulator was freed before another one rendered; "

_CONTRAST = "Every frame shows something: pixels differ within the frame (standard deviation, of 255)."
_FOLLOWS_MOTION = (
    "Frames follow the motion: pixels change between the first frame and later ones (mean absolute difference, of 255)."
)
_STATE_FINITE = "Proprioception and scene are finite numbers in every frame."
_EXPERT_ACTS = "The expert acts: at least one dimension of the action changes over the episode (standard deviation)."
_ALIGNED = (
    "Observations and actions are aligned: the end effector begins to move between frames t and t + 1 of executed "
    "action t (onset of the fitted impulse response, in control steps)."
)
_SHIFTED = (
    "observations are shifted against actions (negative: the observation was stored after the step): correct the "
    "source or the importer"
)
_EXPLAINED = (
    "The recorded actions are the ones that moved the arm: they explain its displacement (share of the variance)."
)
_OTHER_ACTIONS = "action.executed does not belong to these observations: correct the source or the importer"
_LAG_REMOVED = "Imported data were shifted by the lag that was measured between their actions and their motion."
_DECLARE_LAG = (
    "import the source again with the lag that it has (`world2act import --lag`), and name the elements of motion and "
    "position where nothing could be measured (--rename)"
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
_DISJOINT = "The four sets are disjoint: no scene seed occurs in two of them."
_NO_ACTIONS = "The video-only set holds no action, under any name."


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/demos. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.demos, artifacts / "demos"
    datasets = {name: EpisodeDataset.open(root / name) for name in ("labelled", "video_only")}
    states = read_parquet(root / "initial_states.parquet", ["set", "task", "seed", "scene"]).to_pylist()
    rows, first = [], defaultdict(list)
    for name, dataset in datasets.items():
        for episode in dataset.episodes:
            row, frame, scene = measure_episode(dataset, episode.index)
            rows.append({"dataset": name} | row)
            if scene is not None:
                first[episode.task].append((frame, scene))
    actions = [measure_actions(datasets["labelled"], record.index) for record in datasets["labelled"].episodes]
    return [
        episodes_table(rows, ("dataset", "episode", "task", "seed"), limits, _REBUILD),
        actions_table(actions, ("episode", "task", "seed"), _REBUILD),
        alignment_table(_alignment(datasets["labelled"]), ("task", "episodes"), limits),
        sources_table(datasets["labelled"]),
        _positions_table(_scene_rows(first, datasets["labelled"]), limits),
        *_set_tables(datasets, states, params),
    ]


def _positions_table(rows: list[dict[str, Any]], limits: GateDemos) -> Table:
    frame = pd.DataFrame(rows, columns=["task", "position", "r2"])
    checks = [at_least("r2", limits.scene_r2, _SCENE_VISIBLE, remedy=_OTHER_SCENE)]
    return Table("positions", frame, ("task", "position"), checks)


def _set_tables(
    datasets: dict[str, EpisodeDataset], states: list[dict[str, Any]], params: Params
) -> tuple[Table, Table, Table]:
    """How the sets divide the scenes: tasks in each set, sets of each seed, and what the video-only set stores."""
    more = "raise demos.*_per_task or demos.heldout_share"
    leaked_scenes = f"the policy would be tested on scenes it was trained in: {_REBUILD}"
    leaked_actions = f"the world model must not see actions: {_REBUILD}"
    hidden = expect(
        "column_values_to_not_match_regex", ["column"], _NO_ACTIONS, remedy=leaked_actions, regex="(?i)action"
    )
    return (
        Table(
            "sets",
            pd.DataFrame(_set_rows(datasets, states, params)),
            ("set", "task"),
            [at_least("count", 1, _EVERY_TASK, remedy=more)],
        ),
        Table(
            "seeds",
            pd.DataFrame(_seed_rows(datasets, states)),
            ("seed", "sets"),
            [at_most("set_count", 1, _DISJOINT, remedy=leaked_scenes)],
        ),
        Table(
            "video_columns", pd.DataFrame({"column": _stored_columns(datasets["video_only"])}), ("column",), [hidden]
        ),
    )


def measure_episode(dataset: EpisodeDataset, index: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray | None]:
    """A row for `episodes_table`, the first frame (pixels,) and, where it is recorded, the first scene (S,)."""
    record = dataset.episodes[index]
    arrays = dataset.columns(index, [name for name in (STATE, SCENE) if name in dataset.features])
    frames = dataset.frames(
        index, dataset.cameras[0], np.linspace(0, record.length - 1, _FRAMES).astype(int).tolist()
    ).astype(np.float32)
    row = {
        "episode": index,
        "task": record.task,
        "seed": record.seed,
        "contrast": float(frames.std((1, 2, 3)).min()),
        "change": float(np.abs(frames[1:] - frames[0]).mean((1, 2, 3)).min()),
        "finite": all(map(is_finite, arrays.values())),
    }
    return row, frames[0].ravel(), arrays[SCENE][0] if SCENE in arrays else None


def episodes_table(rows: list[dict[str, Any]], ids: tuple[str, ...], limits: GateDemos, remedy: str) -> Table:
    """What must hold of every episode. `remedy`: how to make an episode again."""
    checks = [
        at_least("contrast", limits.contrast, _CONTRAST, remedy=_CHECK_RENDERER + remedy),
        at_least("change", limits.change, _FOLLOWS_MOTION, remedy=f"the renderer repeats one picture: {remedy}"),
        is_true("finite", _STATE_FINITE, remedy=remedy),
    ]
    return Table("episodes", pd.DataFrame(rows), ids, checks)


def measure_actions(dataset: EpisodeDataset, index: int) -> dict[str, Any]:
    """A row for `actions_table` of a labelled episode."""
    record, arrays = dataset.episodes[index], dataset.columns(index, [ACTION, _executed(dataset)])
    both = np.stack([arrays[ACTION], arrays[_executed(dataset)]])
    return {
        "episode": index,
        "task": record.task,
        "seed": record.seed,
        "finite": is_finite(both),
        "largest_action": float(np.abs(both).max()),
        "action_spread": float(arrays[ACTION].std(0).max()),
    }


def actions_table(rows: list[dict[str, Any]], ids: tuple[str, ...], remedy: str) -> Table:
    """What must hold of the actions of every labelled episode. `remedy`: how to make an episode again."""
    clip = "clip the expert's actions where the demonstrations are made"
    checks = [
        is_true("finite", "Actions are finite numbers.", remedy=remedy),
        at_most("largest_action", 1, "Actions are in [-1, 1], the box of the environment.", remedy=clip),
        at_least("action_spread", 0.05, _EXPERT_ACTS, remedy=remedy),
    ]
    return Table("labelled_episodes", pd.DataFrame(rows), ids, checks)


def measure_alignment(dataset: EpisodeDataset, episodes: Iterable[int]) -> dict[str, Any]:
    """A row for `alignment_table`: how well the executed actions of episodes fit the motion of the end effector."""
    axes, pairs = _motion_axes(dataset), []
    for index in episodes:
        arrays = dataset.columns(index, [STATE, _executed(dataset)])
        pairs.append((arrays[_executed(dataset)][:, axes[0]], arrays[STATE][:, axes[1]]))
    onset, explained = response_onset(*zip(*pairs, strict=True))
    return {"episodes": len(pairs), "onset_steps": onset, "explained": explained}


def alignment_table(rows: list[dict[str, Any]], ids: tuple[str, ...], limits: GateDemos) -> Table:
    """What must hold of actions against observations."""
    checks = [
        between("onset_steps", 0, 0, _ALIGNED, remedy=_SHIFTED),
        at_least("explained", limits.motion_explained, _EXPLAINED, remedy=_OTHER_ACTIONS),
    ]
    return Table("tasks", pd.DataFrame(rows), ids, checks)


def _alignment(dataset: EpisodeDataset) -> list[dict[str, Any]]:
    episodes = defaultdict(list)
    for record in dataset.episodes:
        episodes[record.task].append(record.index)
    return [{"task": task} | measure_alignment(dataset, indices) for task, indices in episodes.items()]


def _executed(dataset: EpisodeDataset) -> str:
    """The feature that holds the actions that moved the arm; imported data have only the labels."""
    return EXECUTED if EXECUTED in dataset.features else ACTION


def _motion_axes(dataset: EpisodeDataset) -> tuple[list[int], list[int]]:
    """The columns of the action that move the end effector along an axis, and those of its position in the state."""
    executed = _executed(dataset)
    action, state = (element_names(dataset.features, feature) for feature in (executed, STATE))
    axes = motion_axes(action, state)
    if axes is None:
        raise BadInput(
            dataset.path / "meta/info.json",
            f"features.{executed}.names",
            [action, state],
            "delta_x and ee_x_m, also y and z",
            "give the axes of the end effector these names in the embodiment, or with `world2act import --rename`",
        )
    return axes


def sources_table(dataset: EpisodeDataset) -> Table:
    """What must hold of imported datasets: the lag taken out of a source is the one that was measured."""
    sources = dataset.info.get("world2act", {}).get("recorded", {})
    rows = [
        {"dataset": name} | {key: alignment.get(key) for key in ("declared_lag", "measured_lag")}
        for name, alignment in sources.items()
    ]
    frame = pd.DataFrame(rows, columns=["dataset", "declared_lag", "measured_lag"])
    checks = [equal("declared_lag", "measured_lag", _LAG_REMOVED, remedy=_DECLARE_LAG)]
    return Table("sources", frame, ("dataset",), checks)


def _scene_rows(first: dict[str, list[tuple[np.ndarray, np.ndarray]]], dataset: EpisodeDataset) -> list[dict[str, Any]]:
    rows = []
    for task, pairs in first.items():
        names = element_names(dataset.features, SCENE)
        pixels, scenes = (np.stack(part) for part in zip(*pairs, strict=True))
        varying = np.flatnonzero(scenes.std(0) > _VARIES_M)
        scores = readable(pixels, scenes[:, varying])
        rows += [
            {"task": task, "position": names[i], "r2": float(score)} for i, score in zip(varying, scores, strict=True)
        ]
    return rows


def _set_rows(
    datasets: dict[str, EpisodeDataset], states: list[dict[str, Any]], params: Params
) -> list[dict[str, Any]]:
    found = [
        (f"{name} {episode.subset}", episode.task) for name, dataset in datasets.items() for episode in dataset.episodes
    ]
    found += [(state["set"], state["task"]) for state in states]
    sets = [f"{name} {subset}" for name in datasets for subset in ("train", "heldout")] + ["post_training", "test"]
    return [
        {"set": name, "task": task, "count": found.count((name, task))} for name in sets for task in params.demos.tasks
    ]


def _seed_rows(datasets: dict[str, EpisodeDataset], states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sets = defaultdict(set)
    for name, dataset in datasets.items():
        for episode in dataset.episodes:
            sets[episode.seed].add(name)
    for state in states:
        sets[state["seed"]].add(state["set"])
    return [
        {"seed": seed, "sets": ", ".join(sorted(names)), "set_count": len(names)}
        for seed, names in sorted(sets.items())
    ]


def _stored_columns(dataset: EpisodeDataset) -> list[str]:
    """Columns of the files themselves, whatever info.json says."""
    files = sorted((dataset.path / "data").glob("*/*.parquet"))
    return sorted({name for file in files for name in pq.read_schema(file).names} | set(dataset.features))
