"""What must hold of recorded episodes: their frames, their actions, and the alignment of the two.

The gate of `demos` judges artifacts/demos by these tables, and ingest judges uploads by them before they may join.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.params.gates import GateDemos
from world2act.core.tables import RowT
from world2act.data.features import element_names
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, EXECUTED, SCENE, STATE
from world2act.formats.action_lag import motion_axes, response_onset
from world2act.gates.engine.measurements import is_finite
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import at_least, at_most, between, is_true

_FRAMES = 5
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
    "observations are shifted against actions (negative: each observation was stored after the step): correct the "
    "source or the importer"
)
_EXPLAINED = (
    "The recorded actions are the ones that moved the arm: they explain its displacement (share of the variance)."
)
_OTHER_ACTIONS = "action.executed does not belong to these observations: correct the source or the importer"


@dataclass(frozen=True)
class EpisodeMeasures:
    """Frames and state of one episode.

    Attributes:
        contrast: the smallest standard deviation of a frame's pixels, of 255.
        change: the smallest mean absolute difference between a later frame and the first one, of 255.
        finite: whether proprioception and scene are finite numbers.
    """

    episode: int
    task: str
    seed: int
    contrast: float
    change: float
    finite: bool


@dataclass(frozen=True)
class ActionMeasures:
    """Actions of one labelled episode.

    Attributes:
        largest_action: the largest magnitude.
        action_spread: the largest standard deviation of a dimension over the episode.
    """

    episode: int
    task: str
    seed: int
    finite: bool
    largest_action: float
    action_spread: float


@dataclass(frozen=True)
class AlignmentMeasures:
    """How well the executed actions of some episodes fit the motion of the end effector.

    Attributes:
        episodes: how many were measured.
        onset_steps: when the end effector begins to follow its actions, in control steps.
        explained: the share of the variance of its displacement that the actions explain.
    """

    episodes: int
    onset_steps: int
    explained: float


def measure_episode(dataset: EpisodeDataset, index: int) -> tuple[EpisodeMeasures, np.ndarray, np.ndarray | None]:
    """Measure an episode; also returns its first frame (pixels,) and, if it is recorded, its first scene (S,)."""
    record = dataset.episodes[index]
    arrays = dataset.columns(index, [name for name in (STATE, SCENE) if name in dataset.features])
    shown = np.linspace(0, record.length - 1, _FRAMES).astype(int).tolist()
    frames = dataset.frames(index, dataset.cameras[0], shown).astype(np.float32)
    measures = EpisodeMeasures(
        episode=index,
        task=record.task,
        seed=record.seed,
        contrast=float(frames.std((1, 2, 3)).min()),
        change=float(np.abs(frames[1:] - frames[0]).mean((1, 2, 3)).min()),
        finite=all(map(is_finite, arrays.values())),
    )
    return measures, frames[0].ravel(), arrays[SCENE][0] if SCENE in arrays else None


def measure_actions(dataset: EpisodeDataset, index: int) -> ActionMeasures:
    """Measure the actions of a labelled episode."""
    record, executed = dataset.episodes[index], _executed(dataset)
    arrays = dataset.columns(index, [ACTION, executed])
    both = np.stack([arrays[ACTION], arrays[executed]])
    return ActionMeasures(
        episode=index,
        task=record.task,
        seed=record.seed,
        finite=is_finite(both),
        largest_action=float(np.abs(both).max()),
        action_spread=float(arrays[ACTION].std(0).max()),
    )


def measure_alignment(dataset: EpisodeDataset, episodes: Iterable[int]) -> AlignmentMeasures:
    """Measure the alignment of actions and motion over some labelled episodes.

    Raises:
        BadInput: the dataset does not name the axes of the end effector.
    """
    executed, (moves, positions) = _executed(dataset), _motion_axes(dataset)
    pairs = []
    for index in episodes:
        arrays = dataset.columns(index, [STATE, executed])
        pairs.append((arrays[executed][:, moves], arrays[STATE][:, positions]))
    onset, explained = response_onset(*zip(*pairs, strict=True))
    return AlignmentMeasures(len(pairs), onset, explained)


def episodes_table(
    row: type[RowT], rows: Sequence[RowT], ids: tuple[str, ...], limits: GateDemos, remedy: str
) -> Table:
    """What must hold of every episode. `row`: `EpisodeMeasures`, or a subclass. `remedy`: how to replace an episode."""
    checks = [
        at_least("contrast", limits.contrast, _CONTRAST, remedy=_CHECK_RENDERER + remedy),
        at_least("change", limits.change, _FOLLOWS_MOTION, remedy=f"the renderer repeats one picture: {remedy}"),
        is_true("finite", _STATE_FINITE, remedy=remedy),
    ]
    return Table.of("episodes", row, rows, ids, checks)


def actions_table(row: type[RowT], rows: Sequence[RowT], ids: tuple[str, ...], remedy: str) -> Table:
    """What must hold of the actions of every labelled episode. `row`: `ActionMeasures`, or a subclass."""
    clip = "clip the actions in the program that records the demonstrations"
    checks = [
        is_true("finite", "Actions are finite numbers.", remedy=remedy),
        at_most("largest_action", 1, "Actions are in [-1, 1], the box of the environment.", remedy=clip),
        at_least("action_spread", 0.05, _EXPERT_ACTS, remedy=remedy),
    ]
    return Table.of("labelled_episodes", row, rows, ids, checks)


def alignment_table(row: type[RowT], rows: Sequence[RowT], ids: tuple[str, ...], limits: GateDemos) -> Table:
    """What must hold of actions against observations. `row`: `AlignmentMeasures`, or a subclass."""
    checks = [
        between("onset_steps", 0, 0, _ALIGNED, remedy=_SHIFTED),
        at_least("explained", limits.motion_explained, _EXPLAINED, remedy=_OTHER_ACTIONS),
    ]
    return Table.of("tasks", row, rows, ids, checks)


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
