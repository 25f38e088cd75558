"""The candidate boundaries of an episode: proprioception in, contact and motion events out. No frame is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import STATE, ee_position, gripper_opening
from world2act.errors import BadInput
from world2act.params import Contact, Motion
from world2act.skills.contact import Event, contact_events
from world2act.skills.motion import motion_events


@dataclass(frozen=True)
class Calibration:
    """By embodiment: `contact` of the gripper, needed by all; `motion` of those whose non-prehensile skills count."""

    contact: Mapping[str, Contact]
    motion: Mapping[str, Motion]

    def of(self, embodiment: str) -> tuple[Contact, Motion | None]:
        """Raises `BadInput` where the embodiment's gripper is not calibrated."""
        if embodiment not in self.contact:
            expected, remedy = f"an entry for {embodiment}", "calibrate the gripper and add it"
            raise BadInput("params.yaml", "skills.contact", sorted(self.contact), expected, remedy)
        return self.contact[embodiment], self.motion.get(embodiment)


def find_events(dataset: EpisodeDataset, index: int, calibration: Calibration) -> tuple[Event, ...]:
    """The events of an episode in order of time.

    Raises:
        BadInput: the embodiment is not calibrated, or the dataset does not name the columns that are read.
    """
    contact, motion = calibration.of(dataset.info["robot_type"])
    opening_m, position_m = read_hand(dataset, index, with_position=motion is not None)
    events = contact_events(opening_m, contact)
    if motion is not None and position_m is not None:
        events += motion_events(position_m, motion)
    return tuple(sorted(events, key=lambda event: event.frame))


def read_hand(dataset: EpisodeDataset, index: int, *, with_position: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The gripper's opening (T,) and, where asked for, the end effector's position (T, 3), metres."""
    arrays = dataset.columns(index, [STATE])
    return gripper_opening(dataset, arrays), ee_position(dataset, arrays) if with_position else None
