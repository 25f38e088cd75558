"""The parts of an embodiment's state and action: where their numbers are among the robot's, and how they are processed.

Source: gr00t/data/state_action/state_action_processor.py of NVIDIA's Isaac-GR00T (`apply_state`, `apply_action`,
`unapply_action`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from world2act.core.errors import BadInput
from world2act.policies.gr00t.processing.modality import REMEDY, STATISTICS, Modalities, Modality, Settings
from world2act.policies.gr00t.processing.numbers import WIDTHS, Pose, Scaling, absolute, encode_angles, relative
from world2act.policies.gr00t.processing.robot import Names, Robot, find_numbers


@dataclass(frozen=True)
class StatePart:
    """places: of its numbers in the robot's proprioception. angles: sines and cosines, in place of the scaling."""

    name: str
    places: list[int]
    scaling: Scaling
    angles: bool
    clip: bool

    @property
    def encoded_width(self) -> int:
        return len(self.places) * (2 if self.angles else 1)

    def encode(self, proprio: np.ndarray) -> np.ndarray:
        """Float (B, P) of the robot → (B, encoded_width)."""
        values = proprio[:, self.places].astype(np.float64)
        if self.angles:
            return encode_angles(values)
        values = self.scaling.normalise(values)
        return np.clip(values, -1, 1) if self.clip and self.scaling.bounded else values


@dataclass(frozen=True)
class ActionPart:
    """places: of its numbers in the robot's action; none where nobody carries them out. width: of the part, and of
    its statistics. reference: where in the robot's proprioception its actions start from, if they are relative; pose:
    and if they are poses of the end effector."""

    name: str
    places: list[int]
    scaling: Scaling
    clip: bool
    reference: list[int] | None
    pose: Pose | None

    @property
    def width(self) -> int:
        return self.scaling.width

    def normalise(self, actions: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        """The part's own numbers (B, T, D), as the robot takes them → the network's."""
        values = actions.astype(np.float64)
        if self.reference is not None:
            values = relative(values, proprio[:, self.reference].astype(np.float64), self.pose)
        values = self.scaling.normalise(values)
        return np.clip(values, -1, 1) if self.clip else values

    def restore(self, values: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        """The inverse of `normalise`, where nothing was clipped."""
        values = self.scaling.restore(values)
        if self.reference is None:
            return values
        return absolute(values, proprio[:, self.reference].astype(np.float64), self.pose)


def state_parts(
    settings: Settings, modalities: Modalities, statistics: Mapping[str, Any], robot: Robot, names: Names
) -> list[StatePart]:
    """In the order of the modality. Raises `BadInput` as `Processor.read` does."""
    modality = modalities.state
    scalings = {part: _scaling(statistics, "state", part, modality, settings) for part in modality.modality_keys}
    widths = {part: scaling.width for part, scaling in scalings.items()}
    places = find_numbers("state", widths, robot.proprio, names.state)
    angles = set(modality.sin_cos_embedding_keys or ()) if settings.apply_sincos_state_encoding else set()
    return [
        StatePart(part, places[part], scaling, part in angles, settings.clip_outliers)
        for part, scaling in scalings.items()
    ]


def action_parts(
    settings: Settings,
    modalities: Modalities,
    statistics: Mapping[str, Any],
    robot: Robot,
    names: Names,
    state: list[StatePart],
) -> list[ActionPart]:
    """In the order of the modality. Raises `BadInput` as `Processor.read` does."""
    modality, steps = modalities.action, len(modalities.action.delta_indices)
    references = {part.name: part.places for part in state}
    scalings: dict[str, Scaling] = {}
    starts: dict[str, list[int] | None] = {}
    poses: dict[str, Pose | None] = {}
    for part in modality.modality_keys:
        config = modalities.config_of(part)
        moves = settings.use_relative_action and config.rep == "RELATIVE"
        kind: Literal["relative_action", "action"] = "relative_action" if moves else "action"
        scalings[part] = _scaling(statistics, kind, part, modality, settings).first(steps)
        starts[part] = poses[part] = None
        if moves:
            starts[part] = references.get(config.state_key or part)
            _check_relative(part, scalings[part].width, starts[part], config.type, config.format)
            if config.type == "EEF" and config.format != "DEFAULT":
                poses[part] = config.format
    widths = {part: scaling.width for part, scaling in scalings.items()}
    places = find_numbers("action", widths, robot.actions, names.action)
    return [
        ActionPart(part, places[part], scaling, settings.clip_outliers, starts[part], poses[part])
        for part, scaling in scalings.items()
    ]


def _check_relative(part: str, width: int, start: list[int] | None, kind: str, form: str) -> None:
    where, key = "processor_config.json", f"action.action_configs of {part}"
    if kind == "EEF" and form not in WIDTHS:
        raise BadInput(where, key, f"format {form}", f"one of {sorted(WIDTHS)} for a pose", REMEDY)
    if kind == "EEF" and width != WIDTHS[form]:
        raise BadInput(where, key, f"{width} numbers", f"{WIDTHS[form]} for {form}", REMEDY)
    if start is None or len(start) != width:
        found = "no such part of the state" if start is None else f"a state of {len(start)} numbers"
        raise BadInput(where, key, found, f"a state of {width} numbers to start from", REMEDY)


def _scaling(statistics: Mapping[str, Any], kind: str, part: str, modality: Modality, settings: Settings) -> Scaling:
    found = statistics.get(kind, {}).get(part)
    if not isinstance(found, dict):
        raise BadInput(STATISTICS, f"{kind}.{part}", found, "the statistics of this part", REMEDY)
    moments = part in (modality.mean_std_embedding_keys or ())
    # percentiles are of the robot's own numbers: relative actions keep minimum and maximum
    box = ("q01", "q99") if settings.use_percentiles and kind != "relative_action" else ("min", "max")
    first, second = (_read(found, f"{kind}.{part}.{name}", name) for name in (("mean", "std") if moments else box))
    ordered = (second >= 0).all() if moments else (first <= second).all() if first.shape == second.shape else False
    if first.shape != second.shape or not ordered:
        raise BadInput(STATISTICS, f"{kind}.{part}", found, "two lists of one length, min <= max or std >= 0", REMEDY)
    return Scaling.of_moments(first, second) if moments else Scaling.of_box(first, second)


def _read(found: Mapping[str, Any], key: str, name: str) -> np.ndarray:
    try:
        values = np.asarray(found.get(name, []), np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim not in (1, 2) or not values.size or not np.isfinite(values).all():
        raise BadInput(STATISTICS, key, found.get(name), "a list of finite numbers, or one for each step", REMEDY)
    return values
