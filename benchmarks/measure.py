"""What the benchmarks share: a description of the machine, measuring in alternation, and ratios with their spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import psutil


def describe_machine(*packages: str) -> str:
    """Processor, memory, Python and the versions of some packages, on one line."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    versions = "".join(f", {package} {version(package)}" for package in packages)
    load = f"load before: {os.getloadavg()[0]:.1f}"
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory}, Python {platform.python_version()}{versions}, {load}"
    )


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def by_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure every side once, then every side again, `repeats` times, so that a busy minute affects all of them."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            figures[name].append(measure())
    return figures


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, minimum and maximum, as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"median {middle:.{digits}f}, min {low:.{digits}f}, max {high:.{digits}f}"


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """The spread of the ratios of one repetition each."""
    return spread([one / other for one, other in zip(above, below, strict=True)])
