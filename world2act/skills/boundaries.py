"""Boundaries against the truth: the expert's recorded phases in, F1 within a tolerance out, where they are known.

Only metrics, gates and pages come here. Segmentation does not: it sees what a robot without an expert would see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import PHASE
from world2act.data.skill_table import SkillRow

TOLERANCES = (2, 5, 10)
"""Frames on either side."""
_BLIP = 4

Count = Counter[str]
"""`matched`, `found` and `true` boundaries."""


def expert_boundaries(phases: np.ndarray) -> list[int]:
    """The frames at which an expert goes on to its next skill.

    Noise makes experts step back. Skill k begins at the first frame from which the phase stays at k or later to the
    end of the episode, where a return to an earlier one for less than 4 frames is not counted as one: the expert's
    noise is held that long.

    Args:
        phases: (T,) index of the skill at each frame.

    Returns:
        One frame per skill after the first that the expert starts, in order; a skipped skill has none.
    """
    found = []
    for skill in range(1, int(phases.max()) + 1):
        before = (phases < skill).astype(np.int8)
        edges = np.flatnonzero(np.diff(before, prepend=0, append=0)).reshape(-1, 2)
        lasting = [end for start, end in edges if start == 0 or end - start >= _BLIP]
        if lasting and lasting[-1] < len(phases):
            found.append(int(lasting[-1]))
    return sorted(set(found))


def count_matches(found: Sequence[int], true: Sequence[int], tolerance: int) -> Count:
    """Match found boundaries to true ones, each to at most one, no further apart than `tolerance` frames.

    Both lists ascend, so taking each true boundary's first free partner leaves the most pairs.
    """
    matched, next_found = 0, 0
    for boundary in true:
        while next_found < len(found) and found[next_found] < boundary - tolerance:
            next_found += 1
        if next_found < len(found) and found[next_found] <= boundary + tolerance:
            matched, next_found = matched + 1, next_found + 1
    return Counter(matched=matched, found=len(found), true=len(true))


def f1(count: Count) -> float | None:
    """2 matched / (found + true); None where there is no boundary at all."""
    both = count["found"] + count["true"]
    return 2 * count["matched"] / both if both else None


def true_boundaries(dataset: EpisodeDataset, index: int) -> list[int] | None:
    """Those of an episode's expert; None where the source knows no phases."""
    if PHASE not in dataset.features:
        return None
    phases = dataset.columns(index, [PHASE])[PHASE][:, 0]
    return expert_boundaries(phases) if (phases >= 0).all() else None


def found_boundaries(skills: Iterable[SkillRow]) -> dict[tuple[str, int], list[int]]:
    """(dataset, episode) → the frames at which its skills after the first begin, before they move onto the grid."""
    found: dict[tuple[str, int], list[int]] = {}
    for row in skills:
        ends = found.setdefault((row.dataset, row.episode_index), [])
        if row.skill_index < row.skill_count - 1:
            ends.append(row.raw_end)
    return found


def count_boundaries(
    datasets: Mapping[str, EpisodeDataset], skills: Iterable[SkillRow], tolerance: int
) -> dict[str, Count]:
    """Task → counts over its episodes whose truth is known. A discarded episode found nothing and missed the rest."""
    found, counts = found_boundaries(skills), dict[str, Count]()
    for name, dataset in datasets.items():
        for record in dataset.episodes:
            true = true_boundaries(dataset, record.index)
            if true is not None:
                counts.setdefault(record.task, Counter()).update(
                    count_matches(found.get((name, record.index), []), true, tolerance)
                )
    return counts


def boundary_metrics(datasets: Mapping[str, EpisodeDataset], skills: Sequence[SkillRow]) -> dict[str, Any]:
    """`boundary_f1_<tolerance>`, pooled, and `boundary_f1_<tolerance>_by_task`; nothing where no truth is known."""
    metrics: dict[str, Any] = {}
    for tolerance in TOLERANCES:
        counts = count_boundaries(datasets, skills, tolerance)
        if counts:
            metrics[f"boundary_f1_{tolerance}"] = f1(sum(counts.values(), Counter()))
            metrics[f"boundary_f1_{tolerance}_by_task"] = {task: f1(count) for task, count in sorted(counts.items())}
    return metrics
