"""Contact and touch events: the visual stream of skill segmentation (World2Act, section on RoboCasa-Skill).

Closure is the calibrated open width minus the opening. Contact starts when closure reaches the embodiment's threshold
and ends when it falls below the release width. The two widths differ so that a soft object does not make contact
flicker. The force on the hand is read in the same way; it shows touch in tasks where the gripper never closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from world2act.core.params.skills import Contact, Touch

Kind = Literal["contact_onset", "contact_end", "motion_change", "touch_onset"]


@dataclass(frozen=True)
class Event:
    """A frame at which a skill may end: contact, touch or a new movement starts, or it is the first without contact."""

    frame: int
    kind: Kind


def contact_events(opening_m: np.ndarray, contact: Contact) -> list[Event]:
    """Find the contact events of an episode.

    Contact or an interruption shorter than `contact.min_frames` is a flicker and ignored. Contact at frame 0 has no
    approach and therefore no onset.

    Args:
        opening_m: (T,) distance between the fingers, metres.
        contact: the embodiment's calibration.

    Returns:
        Events in chronological order.
    """
    closure = contact.open_width_m - np.asarray(opening_m, np.float64)
    touching = _hysteresis(closure, contact.threshold_m, contact.release_m, contact.min_frames)
    return [Event(t, "contact_onset" if touching[t] else "contact_end") for t in _changes(touching)]


def touch_events(force_n: np.ndarray, touch: Touch) -> list[Event]:
    """Find where the hand starts to touch something. Flickers and touch at frame 0 are ignored, as in `contact_events`.

    Args:
        force_n: (T,) magnitude of the external force on the hand, newtons.
        touch: the embodiment's calibration.

    Returns:
        Events in chronological order.
    """
    touching = _hysteresis(np.asarray(force_n, np.float64), touch.threshold_n, touch.release_n, touch.min_frames)
    return [Event(t, "touch_onset") for t in _changes(touching) if touching[t]]


def _hysteresis(signal: np.ndarray, start: float, end: float, min_frames: int) -> np.ndarray:
    """Whether the signal has reached `start` and not fallen below `end` since, bool (T,), without short runs."""
    state, states = False, np.zeros(len(signal), bool)
    for t, value in enumerate(signal):
        states[t] = state = bool(value >= (end if state else start))
    for value in (False, True):
        _remove_short(states, value, min_frames)
    return states


def _changes(states: np.ndarray) -> list[int]:
    return (np.flatnonzero(states[1:] != states[:-1]) + 1).tolist()


def _remove_short(touching: np.ndarray, value: bool, min_frames: int) -> None:
    """Flip the inner runs of `value` that are shorter than `min_frames`, in place."""
    edges = np.flatnonzero(np.diff(touching)) + 1
    for start, end in pairwise(edges):
        if touching[start] == value and end - start < min_frames:
            touching[start:end] = not value
