"""One episode's signals over its frames: gripper, speed and turn of the hand, and the skills that were found.

The axes end at fixed shares of the width, so that a strip of frames above the chart is aligned with it in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from world2act.core.params.skills import Contact, Motion, Touch
from world2act.report.charts import ACCENT, BASE, FULL, INK, LINE, MUTE, SOFT, STYLE, inline_svg
from world2act.skills.contact import Event
from world2act.skills.motion import turning_angle

LEFT, RIGHT = 0.075, 0.995
"""Where the axes begin and end, as shares of the chart's width."""
_ROW_INCHES = 1.25
_BAND_INCHES = 0.42


@dataclass(frozen=True)
class Signals:
    """What segmentation reads from an episode, and its calibration; None if the episode or the robot has none.

    All signals are (T,), except for `position_m`, (T, 3).
    """

    fps: int
    opening_m: np.ndarray
    position_m: np.ndarray | None
    force_n: np.ndarray | None
    contact: Contact | None
    motion: Motion | None
    touch: Touch | None


@dataclass(frozen=True)
class Cut:
    """How an episode was divided: (start, end) of skills, boundaries found, events, and true boundaries if known."""

    spans: Sequence[tuple[int, int]]
    found: Sequence[int]
    events: Sequence[Event]
    true: Sequence[int] | None


def episode_chart(signals: Signals, cut: Cut, salt: str) -> Markup:
    """Draw an episode. `salt`: see `inline_svg`."""
    rows: list[Callable[[Axes], None]] = [partial(_draw_opening, opening_m=signals.opening_m, contact=signals.contact)]
    if signals.position_m is not None:
        rows.append(partial(_draw_speed, position_m=signals.position_m, fps=signals.fps))
        if signals.motion:
            rows.append(partial(_draw_turn, position_m=signals.position_m, motion=signals.motion))
    if signals.force_n is not None:
        rows.append(partial(_draw_force, force_n=signals.force_n, touch=signals.touch))
    height = _BAND_INCHES + _ROW_INCHES * len(rows) + 0.45
    ratios = [_BAND_INCHES, *[_ROW_INCHES] * len(rows)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(ratios), 1, figsize=(FULL, height), sharex=True, height_ratios=ratios, squeeze=False
        )
        figure.subplots_adjust(LEFT, 0.45 / height, RIGHT, 1, hspace=0.18)
        band, *panels = axes[:, 0]
        _draw_band(band, cut, len(signals.opening_m))
        for panel, draw in zip(panels, rows, strict=True):
            draw(panel)
            _draw_boundaries(panel, cut)
        panels[-1].set_xlabel("frame")
        panels[-1].set_xlim(-0.5, len(signals.opening_m) - 0.5)
        return inline_svg(figure, salt)


def _draw_band(axes: Axes, cut: Cut, frames: int) -> None:
    """The skills as numbered spans, and every event as a mark above them."""
    for number, (start, end) in enumerate(cut.spans):
        axes.axvspan(start, end, 0, 0.62, color=ACCENT if number % 2 else SOFT, alpha=0.55, linewidth=0)
        axes.text((start + end) / 2, 0.29, str(number + 1), ha="center", va="center", fontweight="bold")
    following = [*(event.frame for event in cut.events[1:]), frames]
    for event, after in zip(cut.events, following, strict=False):
        late = after - event.frame < 0.13 * frames  # no room for the label on the right
        axes.plot(event.frame, 0.8, marker="v", markersize=6, color=MUTE)
        axes.annotate(
            event.kind.replace("_", " "),
            (event.frame, 0.8),
            (-8 if late else 8, 0),
            textcoords="offset points",
            ha="right" if late else "left",
            va="center",
            fontsize=10,
            color=MUTE,
        )
    axes.set(ylim=(0, 1), yticks=[])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _draw_opening(axes: Axes, opening_m: np.ndarray, contact: Contact | None) -> None:
    axes.plot(1000 * opening_m, color=INK)
    if contact:
        onset, release = (1000 * (contact.open_width_m - w) for w in (contact.threshold_m, contact.release_m))
        axes.axhspan(onset, release, color=SOFT, alpha=0.35, linewidth=0)
        axes.axhline(onset, color=MUTE, linewidth=1, linestyle="--")
    top = 1000 * max(opening_m.max(), contact.open_width_m if contact else 0)
    axes.set(ylabel="opening, mm", ylim=(0, 1.12 * top))


def _draw_speed(axes: Axes, position_m: np.ndarray, fps: int) -> None:
    speed = np.linalg.norm(np.diff(position_m, axis=0), axis=1) * fps
    axes.plot(np.arange(len(speed)) + 0.5, speed, color=INK)
    axes.set(ylabel="speed, m/s", ylim=(0, 1.12 * speed.max() or 1))


def _draw_turn(axes: Axes, position_m: np.ndarray, motion: Motion) -> None:
    axes.plot(turning_angle(position_m, motion), color=INK)
    axes.axhline(motion.turn_deg, color=MUTE, linewidth=1, linestyle="--")
    axes.set(ylabel="turn, °", ylim=(0, 180), yticks=[0, 90, 180])


def _draw_force(axes: Axes, force_n: np.ndarray, touch: Touch | None) -> None:
    axes.plot(force_n, color=INK)
    if touch:
        axes.axhspan(touch.release_n, touch.threshold_n, color=SOFT, alpha=0.35, linewidth=0)
        axes.axhline(touch.threshold_n, color=MUTE, linewidth=1, linestyle="--")
    axes.set(ylabel="force, N", ylim=(0, 1.12 * force_n.max() or 1))


def _draw_boundaries(axes: Axes, cut: Cut) -> None:
    for frame in cut.true or ():
        axes.axvline(frame, color=BASE, linewidth=5, alpha=0.35)
    for frame in cut.found:
        axes.axvline(frame, color=ACCENT, linewidth=1.8)
    axes.grid(axis="x", visible=False)
    axes.spines["bottom"].set_color(LINE)
    axes.yaxis.set_label_coords(-0.052, 0.5)
