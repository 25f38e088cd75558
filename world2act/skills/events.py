"""Candidate boundaries of an episode: contact, touch and motion events from proprioception alone, without images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from world2act.core.errors import BadInput
from world2act.core.params import Skills
from world2act.core.params.skills import Contact, Motion, Touch
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import STATE, ee_force, ee_position, gripper_opening
from world2act.skills.contact import Event, contact_events, touch_events
from world2act.skills.motion import motion_events


@dataclass(frozen=True)
class Calibration:
    """Calibrations by embodiment. `contact` is required; without `motion` or `touch` there are no such events."""

    contact: Mapping[str, Contact]
    motion: Mapping[str, Motion]
    touch: Mapping[str, Touch]

    @classmethod
    def of(cls, skills: Skills) -> Calibration:
        return cls(skills.contact, skills.motion, skills.touch)


def find_events(dataset: EpisodeDataset, index: int, calibration: Calibration) -> tuple[Event, ...]:
    """The events of an episode in chronological order.

    Raises:
        BadInput: the embodiment's gripper is not calibrated, or the dataset lacks a column that is needed.
    """
    embodiment, arrays = dataset.info["robot_type"], dataset.columns(index, [STATE])
    if embodiment not in calibration.contact:
        expected, remedy = (
            f"an entry for {embodiment}",
            "calibrate its gripper and add the entry",
        )
        raise BadInput("params.yaml", "skills.contact", sorted(calibration.contact), expected, remedy)
    events = contact_events(gripper_opening(dataset, arrays), calibration.contact[embodiment])
    if embodiment in calibration.motion:
        events += motion_events(ee_position(dataset, arrays), calibration.motion[embodiment])
    if embodiment in calibration.touch and (force_n := ee_force(dataset, arrays)) is not None:
        events += touch_events(force_n, calibration.touch[embodiment])
    return tuple(sorted(events, key=lambda event: event.frame))
