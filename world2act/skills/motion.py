"""Non-prehensile skills from the end effector's path: the frame at which its last stroke starts.

A gripper that pushes, presses, closes or turns something never grasps it. It approaches along one or more legs and acts
along the last one, so the path turns where the approach ends. The path alone does not show which of several turns
starts the action, so only the last turn is an event. A task with two actions and no grasp in between needs another
sensor.
"""

from __future__ import annotations

import numpy as np

from world2act.core.params.skills import Motion
from world2act.skills.contact import Event


def motion_events(position_m: np.ndarray, motion: Motion) -> list[Event]:
    """Find where the last stroke of an episode starts.

    A turn is the local maximum, within the window, of the angle between the displacement over the window before a
    frame and the displacement over the window after it. A leg shorter than `motion.stroke_m` has no direction: a hand
    at rest does not turn. The stroke starts at the command to turn, `motion.response_frames` earlier.

    Args:
        position_m: (T, 3) position of the end effector, metres.
        motion: the embodiment's calibration.

    Returns:
        One event, or none if the path does not turn.
    """
    angle = turning_angle(position_m, motion)
    window = motion.window_frames
    for t in range(len(angle) - window - 2, window, -1):  # the first and last angles cannot be maxima
        around = angle[max(t - window, 0) : t + window + 1]
        if angle[t] >= motion.turn_deg and angle[t] == around.max():
            return [Event(max(t - motion.response_frames, 0), "motion_change")]
    return []


def turning_angle(position_m: np.ndarray, motion: Motion) -> np.ndarray:
    """The turn of the path at every frame, (T,) degrees; 0 if a leg is too short or reaches beyond the episode."""
    position, window = np.asarray(position_m, np.float64), motion.window_frames
    angle = np.zeros(len(position))
    if len(position) <= 2 * window:
        return angle
    legs = position[window:] - position[:-window]
    before, after = legs[:-window], legs[window:]
    lengths = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
    moving = np.minimum(*lengths) >= motion.stroke_m
    cosine = (before * after).sum(1)[moving] / (lengths[0] * lengths[1])[moving]
    angle[window:-window][moving] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return angle
