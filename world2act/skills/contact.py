"""Contact from the gripper: the visual stream of skill segmentation (World2Act, section on RoboCasa-Skill).

Closure is the calibrated open width minus the opening. Contact begins where it reaches the embodiment's threshold and
ends where it falls below the release width; two widths, so that an object that yields does not flicker.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from world2act.params import Contact

Kind = Literal["contact_onset", "contact_end", "motion_change", "touch_onset"]


@dataclass(frozen=True)
class Event:
    """A frame at which contact begins, or the first frame without it: a place where a skill may end."""

    frame: int
    kind: Kind


def contact_events(opening_m: np.ndarray, contact: Contact) -> list[Event]:
    """Find the contact events of an episode.

    Contact that lasts less than `contact.min_frames`, or is interrupted for less, is a flicker and left out.
    Contact at frame 0 has no approach and therefore no onset.

    Args:
        opening_m: (T,) distance between the fingers, metres.
        contact: the embodiment's calibration.

    Returns:
        Events in order of time.
    """
    closure = contact.open_width_m - np.asarray(opening_m, np.float64)
    touching = np.zeros(len(closure), bool)
    state = False
    for t, value in enumerate(closure):
        state = value >= (contact.release_m if state else contact.threshold_m)
        touching[t] = state
    for value in (False, True):
        _remove_short(touching, value, contact.min_frames)
    changes = np.flatnonzero(touching[1:] != touching[:-1]) + 1
    return [Event(int(t), "contact_onset" if touching[t] else "contact_end") for t in changes]


def _remove_short(touching: np.ndarray, value: bool, min_frames: int) -> None:
    """Flip the inner runs of `value` that are shorter than `min_frames`, in place."""
    edges = np.flatnonzero(np.diff(touching)) + 1
    for start, end in pairwise(edges):
        if touching[start] == value and end - start < min_frames:
            touching[start:end] = not value
