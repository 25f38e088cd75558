"""The gate of artifacts/demos: episodes and initial states in, tables with expectations out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.params.gates import GateDemos
from world2act.core.storage import read_parquet
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, EXECUTED, SCENE, STATE
from world2act.formats.action_lag import motion_axes, response_onset
from world2act.gates.engine import Table, why
from world2act.gates.probes import is_finite, readable

_FRAMES = 5
_VARIES_M = 1e-3
_AGAIN = "delete artifacts/demos and run `dvc repro demos`"


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
        episodes_table(rows, ("dataset", "episode", "task", "seed"), limits, _AGAIN),
        actions_table(actions, ("episode", "task", "seed"), _AGAIN),
        alignment_table(_alignment(datasets["labelled"]), ("task", "episodes"), limits),
        sources_table(datasets["labelled"]),
        Table(
            "positions",
            pd.DataFrame(_scene_rows(first, datasets["labelled"]), columns=["task", "position", "r2"]),
            ("task", "position"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="r2",
                    min_value=limits.scene_r2,
                    **why(
                        "The scene can be read from the conditioning frame: ridge regression from the first frame's "
                        "pixels finds each "
                        "position that varies, in episodes it was not fitted to (R²).",
                        "the first frame shows another scene or hides the object: raise demos.settle_steps, or move "
                        "the first of demos.cameras",
                    ),
                ),
            ],
        ),
        Table(
            "sets",
            pd.DataFrame(_set_rows(datasets, states, params)),
            ("set", "task"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="count",
                    min_value=1,
                    **why(
                        "Every task is present in every set, and in the held-out part of both datasets.",
                        "raise demos.*_per_task or demos.heldout_share",
                    ),
                ),
            ],
        ),
        Table(
            "seeds",
            pd.DataFrame(_seed_rows(datasets, states)),
            ("seed", "sets"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="set_count",
                    max_value=1,
                    **why(
                        "The four sets are disjoint: no scene seed occurs in two of them.",
                        f"the policy would be tested on scenes it was trained in: {_AGAIN}",
                    ),
                ),
            ],
        ),
        Table(
            "video_columns",
            pd.DataFrame({"column": _stored_columns(datasets["video_only"])}),
            ("column",),
            [
                gxe.ExpectColumnValuesToNotMatchRegex(
                    column="column",
                    regex="(?i)action",
                    **why(
                        "The video-only set holds no action, under any name.",
                        f"the world model must not see actions: {_AGAIN}",
                    ),
                ),
            ],
        ),
    ]


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


def episodes_table(rows: list[dict[str, Any]], ids: tuple[str, ...], limits: GateDemos, again: str) -> Table:
    """What must hold of every episode. `again`: how to make one anew."""
    return Table(
        "episodes",
        pd.DataFrame(rows),
        ids,
        [
            gxe.ExpectColumnValuesToBeBetween(
                column="contrast",
                min_value=limits.contrast,
                **why(
                    "Every frame shows something: pixels differ within the frame (standard deviation, of 255).",
                    "frames are blank: check MUJOCO_GL and that no simulator was freed before another rendered; "
                    f"{again}",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="change",
                min_value=limits.change,
                **why(
                    "Frames follow the motion: pixels change between the first frame and later ones (mean "
                    "absolute difference, of 255).",
                    f"the renderer repeats one picture: {again}",
                ),
            ),
            gxe.ExpectColumnValuesToBeInSet(
                column="finite",
                value_set=[True],
                **why("Proprioception and scene are finite numbers in every frame.", again),
            ),
        ],
    )


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


def actions_table(rows: list[dict[str, Any]], ids: tuple[str, ...], again: str) -> Table:
    """What must hold of the actions of every labelled episode. `again`: how to make one anew."""
    return Table(
        "labelled_episodes",
        pd.DataFrame(rows),
        ids,
        [
            gxe.ExpectColumnValuesToBeInSet(
                column="finite", value_set=[True], **why("Actions are finite numbers.", again)
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="largest_action",
                max_value=1,
                **why(
                    "Actions lie in [-1, 1], the box of the environment.",
                    "clip the expert's actions where the demonstrations are made",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="action_spread",
                min_value=0.05,
                **why(
                    "The expert acts: at least one action dimension changes over the episode (standard deviation).",
                    again,
                ),
            ),
        ],
    )


def measure_alignment(dataset: EpisodeDataset, episodes: Iterable[int]) -> dict[str, Any]:
    """A row for `alignment_table`: how the executed actions and the end effector's motion of episodes hang together."""
    axes, pairs = _motion_axes(dataset), []
    for index in episodes:
        arrays = dataset.columns(index, [STATE, _executed(dataset)])
        pairs.append((arrays[_executed(dataset)][:, axes[0]], arrays[STATE][:, axes[1]]))
    onset, explained = response_onset(*zip(*pairs, strict=True))
    return {"episodes": len(pairs), "onset_steps": onset, "explained": explained}


def alignment_table(rows: list[dict[str, Any]], ids: tuple[str, ...], limits: GateDemos) -> Table:
    """What must hold of actions against observations."""
    return Table(
        "tasks",
        pd.DataFrame(rows),
        ids,
        [
            gxe.ExpectColumnValuesToBeBetween(
                column="onset_steps",
                min_value=0,
                max_value=0,
                **why(
                    "Observation and action are aligned: the end effector begins to move between frame t and t + 1 "
                    "of executed action t "
                    "(onset of the fitted impulse response, in control steps).",
                    "observations are shifted against actions (negative: observation stored after the step): "
                    "correct the source or importer",
                ),
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="explained",
                min_value=limits.motion_explained,
                **why(
                    "The actions stored are the ones that moved the arm: they explain its displacement (share of "
                    "variance).",
                    "action.executed does not belong to these observations: correct the source or importer",
                ),
            ),
        ],
    )


def _alignment(dataset: EpisodeDataset) -> list[dict[str, Any]]:
    episodes = defaultdict(list)
    for record in dataset.episodes:
        episodes[record.task].append(record.index)
    return [{"task": task} | measure_alignment(dataset, indices) for task, indices in episodes.items()]


def _executed(dataset: EpisodeDataset) -> str:
    """The feature that holds the actions that moved the arm: imported data have no other than the label."""
    return EXECUTED if EXECUTED in dataset.features else ACTION


def _motion_axes(dataset: EpisodeDataset) -> tuple[list[int], list[int]]:
    """Columns of the action that move the end effector along an axis, and of proprioception that hold its position."""
    name = _executed(dataset)
    action, state = (dataset.features[each]["names"] for each in (name, STATE))
    axes = motion_axes(action, state)
    if axes is None:
        raise BadInput(
            dataset.path / "meta/info.json",
            f"features.{name}.names",
            [action, state],
            "delta_x and ee_x_m, also y and z",
            "name the axes of the end effector so in the embodiment, or with `world2act import --rename`",
        )
    return axes


def sources_table(dataset: EpisodeDataset) -> Table:
    """What must hold of imported datasets: the lag that was taken out of the source was the one measured."""
    sources = dataset.info.get("world2act", {}).get("recorded", {})
    rows = [
        {"dataset": name} | {key: alignment.get(key) for key in ("declared_lag", "measured_lag")}
        for name, alignment in sources.items()
    ]
    return Table(
        "sources",
        pd.DataFrame(rows, columns=["dataset", "declared_lag", "measured_lag"]),
        ("dataset",),
        [
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="declared_lag",
                column_B="measured_lag",
                **why(
                    "Imported data were shifted by the lag that was measured between their actions and their motion.",
                    "import the source again with the lag it has (`world2act import --lag`), and name the elements of "
                    "motion and position where nothing could be measured (--rename)",
                ),
            ),
        ],
    )


def _scene_rows(first: dict[str, list[tuple[np.ndarray, np.ndarray]]], dataset: EpisodeDataset) -> list[dict[str, Any]]:
    rows = []
    for task, pairs in first.items():
        names = dataset.features[SCENE]["names"]
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
