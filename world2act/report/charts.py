"""Charts as inline SVG whose colours are CSS variables, so that they follow the page from light to dark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib
from markupsafe import Markup

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import RcKeyType

from world2act.evaluation.summary import Summary
from world2act.report.wording import label

# Placeholders for CSS variables: colours that nothing else uses.
INK, MUTE, LINE, ACCENT, BASE, SOFT = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {INK: "ink", MUTE: "mute", LINE: "line", ACCENT: "accent", BASE: "base", SOFT: "soft"}
STYLE: dict[RcKeyType, object] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTE,
    "axes.edgecolor": LINE,
    "xtick.color": MUTE,
    "ytick.color": MUTE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
FULL, HALF, THIRD = 15.0, 7.2, 4.7  # inches of 72 pixels, as wide as on the page, so that letters keep their size

Points = Sequence[tuple[float, float]]


def success_bars(summary: Summary) -> Markup:
    """Success by task and policy with Wilson intervals."""
    colours = policy_colours(summary)
    tasks = [*summary.policies[summary.incumbent].tasks, "all tasks"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(FULL, 4.0), layout="constrained")
        width = 0.8 / len(colours)
        for i, (name, colour) in enumerate(colours.items()):
            success = summary.policies[name]
            rates = [*success.tasks.values(), success.pooled]
            x = np.arange(len(tasks)) + (i - (len(colours) - 1) / 2) * width
            heights = np.array([rate.rate for rate in rates])
            errors = [heights - [rate.low for rate in rates], [rate.high for rate in rates] - heights]
            axes.bar(x, heights, width * 0.9, color=colour, label=label(name))
            axes.errorbar(x, heights, errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
        axes.axvline(len(tasks) - 1.5, color=LINE, linewidth=1)
        axes.set(ylim=(0, 1.02), xticks=range(len(tasks)), xticklabels=tasks)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=len(colours), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return inline_svg(figure, "success")


def policy_colours(summary: Summary) -> dict[str, str]:
    """The policies of an evaluation in the order in which they are drawn: candidates last, in different colours."""
    others = [name for name in summary.policies if name != summary.incumbent and name not in summary.candidates]
    candidates = zip(summary.candidates, cycle((ACCENT, MUTE, INK)), strict=False)
    return dict.fromkeys(others, SOFT) | {summary.incumbent: BASE} | dict(candidates)


def curves(named: Mapping[str, Points], columns: int = 3) -> Markup:
    """Small multiples: one panel per curve over steps."""
    rows = -(-len(named) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(rows, columns, figsize=(FULL, 2.5 * rows), squeeze=False, layout="constrained")
        for axes, (name, points) in zip(grid.flat, named.items(), strict=False):
            _line(axes, points, ACCENT)
            axes.set_title(name)
        for axes in list(grid.flat)[len(named) :]:
            axes.set_visible(False)
        return inline_svg(figure, "curves " + " ".join(named))


def together(named: Mapping[str, Points]) -> Markup:
    """Curves over steps in one panel."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(THIRD, 3.1), layout="constrained")
        for (name, points), colour in zip(named.items(), (ACCENT, BASE, SOFT), strict=False):
            _line(axes, points, colour, name)
        axes.set(xlabel="optimiser step")
        if len(named) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), borderaxespad=0.2)
        return inline_svg(figure, "together " + " ".join(named))


def bars(values: Mapping[str, float], *, highlight: Sequence[str], xlabel: str, width: float) -> Markup:
    """Horizontal bars with their values, some of them in the accent colour. `width` is in inches."""
    names = list(values)[::-1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, 3.2), layout="constrained")
        colours = [ACCENT if name in highlight else SOFT for name in names]
        drawn = axes.barh(names, [values[name] for name in names], color=colours, height=0.68)
        axes.bar_label(drawn, [f"{values[name]:.3g}" for name in names], color=INK, padding=4)
        axes.set(xlabel=xlabel, xlim=(min(0.0, *values.values()), max(*values.values(), 0.0) * 1.15 or 1))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", labelcolor=INK)
        return inline_svg(figure, "bars " + " ".join(names))


def groups(named: Mapping[str, Mapping[str, float]]) -> Markup:
    """Grouped bars, one per series: series → group → value. The first series is highlighted."""
    names = list(dict.fromkeys(group for values in named.values() for group in values))
    colours = [ACCENT, BASE, *[SOFT] * len(named)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(HALF, 3.6), layout="constrained")
        width = 0.84 / len(named)
        for i, (name, values) in enumerate(named.items()):
            x = np.arange(len(names)) + (i - (len(named) - 1) / 2) * width
            heights = [values.get(group, np.nan) for group in names]
            drawn = axes.bar(x, heights, width * 0.9, color=colours[i], alpha=1 - 0.2 * max(0, i - 2), label=name)
            axes.bar_label(drawn, [f"{height:.2g}" for height in heights], color=MUTE, fontsize=9, padding=2)
        axes.set(xticks=range(len(names)), xticklabels=names)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), borderaxespad=0.2, ncols=2, fontsize=10)
        return inline_svg(figure, "groups " + " ".join(named))


def lengths(named: Mapping[str, Points]) -> Markup:
    """Histograms: the share of clips by length."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(HALF, 3.2), layout="constrained")
        for (name, points), colour in zip(named.items(), (SOFT, ACCENT), strict=False):
            frames, shares = (np.array(column) for column in zip(*points, strict=True))
            axes.stairs(shares, [*frames, 2 * frames[-1] - frames[-2]], fill=True, color=colour, alpha=0.65, label=name)
        axes.set(xlabel="frames")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend()
        return inline_svg(figure, "lengths")


def _line(axes: Axes, points: Points, colour: str, name: str | None = None) -> None:
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=colour, marker="o" if len(points) < 3 else None, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def inline_svg(figure: Figure, salt: str) -> Markup:
    """Close a figure and return it as part of a page. `salt`: different for every chart on the page."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'font: (\S+) [^;"]*', r"font-size: \1", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 class="chart"', text, count=1)
    prefix = "c" + hashlib.sha256(salt.encode()).hexdigest()[:8]  # several charts share one page and its ids
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text))
