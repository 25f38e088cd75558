"""One episode's signals over its frames: gripper, speed and turn of the hand, and what was made of them.

The axes end at fixed shares of the width, so that a strip of frames above the chart keeps time with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from world2act.core.params.skills import Contact, Motion, Touch
from world2act.report.charts import ACCENT, BASE, FULL, INK, LINE, MUTE, SOFT, STYLE, inline_svg
from world2act.skills.contact import Event
from world2act.skills.motion import turning_angle

LEFT, RIGHT = 0.075, 0.995
"""Where the axes begin and end, shares of the chart's width."""
_ROW_INCHES = 1.25
_BAND_INCHES = 0.42


@dataclass(frozen=True)
class Signals:
    """What segmentation reads of an episode, (T,), `position_m` (T, 3), and by which calibration; None where there is
    none."""

    fps: int
    opening_m: np.ndarray
    position_m: np.ndarray | None
    force_n: np.ndarray | None
    contact: Contact | None
    motion: Motion | None
    touch: Touch | None


@dataclass(frozen=True)
class Cut:
    """What was made of an episode: (start, end) of its skills, where they begin, events, and the truth if known."""

    spans: Sequence[tuple[int, int]]
    found: Sequence[int]
    events: Sequence[Event]
    true: Sequence[int] | None


def episode_chart(signals: Signals, cut: Cut, salt: str) -> Markup:
    """Draw an episode. `salt`: see `inline_svg`."""
    rows = [_draw_opening]
    if signals.position_m is not None:
        rows += [_draw_speed, *([_draw_turn] if signals.motion else [])]
    if signals.force_n is not None:
        rows.append(_draw_force)
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
            draw(panel, signals)
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
        late = after - event.frame < 0.13 * frames  # no room for the words on the right
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


def _draw_opening(axes: Axes, signals: Signals) -> None:
    axes.plot(1000 * signals.opening_m, color=INK)
    if signals.contact:
        open_width = signals.contact.open_width_m
        onset, release = (1000 * (open_width - w) for w in (signals.contact.threshold_m, signals.contact.release_m))
        axes.axhspan(onset, release, color=SOFT, alpha=0.35, linewidth=0)
        axes.axhline(onset, color=MUTE, linewidth=1, linestyle="--")
    top = 1000 * max(signals.opening_m.max(), signals.contact.open_width_m if signals.contact else 0)
    axes.set(ylabel="opening, mm", ylim=(0, 1.12 * top))


def _draw_speed(axes: Axes, signals: Signals) -> None:
    speed = np.linalg.norm(np.diff(signals.position_m, axis=0), axis=1) * signals.fps
    axes.plot(np.arange(len(speed)) + 0.5, speed, color=INK)
    axes.set(ylabel="speed, m/s", ylim=(0, 1.12 * speed.max() or 1))


def _draw_turn(axes: Axes, signals: Signals) -> None:
    axes.plot(turning_angle(signals.position_m, signals.motion), color=INK)
    axes.axhline(signals.motion.turn_deg, color=MUTE, linewidth=1, linestyle="--")
    axes.set(ylabel="turn, °", ylim=(0, 180), yticks=[0, 90, 180])


def _draw_force(axes: Axes, signals: Signals) -> None:
    axes.plot(signals.force_n, color=INK)
    if signals.touch:
        axes.axhspan(signals.touch.release_n, signals.touch.threshold_n, color=SOFT, alpha=0.35, linewidth=0)
        axes.axhline(signals.touch.threshold_n, color=MUTE, linewidth=1, linestyle="--")
    axes.set(ylabel="force, N", ylim=(0, 1.12 * signals.force_n.max() or 1))


def _draw_boundaries(axes: Axes, cut: Cut) -> None:
    for frame in cut.true or ():
        axes.axvline(frame, color=BASE, linewidth=5, alpha=0.35)
    for frame in cut.found:
        axes.axvline(frame, color=ACCENT, linewidth=1.8)
    axes.grid(axis="x", visible=False)
    axes.spines["bottom"].set_color(LINE)
    axes.yaxis.set_label_coords(-0.052, 0.5)
