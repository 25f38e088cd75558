"""Compare skill boundaries with the expert's recorded phases, where a dataset has them: F1 within a tolerance.

Only metrics, gates and report pages use this module. Segmentation must not: it sees only what a robot without an
expert would see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import PHASE
from world2act.data.skill_table import SkillRow

TOLERANCES = (2, 5, 10)
"""Frames on either side of a true boundary within which a found one counts."""
_BLIP = 4
"""Frames. The expert's noise is held for that long."""

BoundaryMetrics = dict[str, float | Mapping[str, float | None] | None]
Count = Counter[str]
"""`matched`, `found` and `true` boundaries."""


def expert_boundaries(phases: np.ndarray) -> list[int]:
    """The frames at which an expert moves on to its next skill.

    Noise can push an expert back into an earlier phase. Skill k starts at the first frame from which the phase stays
    at k or later until the end of the episode; a return to an earlier phase for less than 4 frames is ignored.

    Args:
        phases: (T,) index of the skill at every frame.

    Returns:
        In ascending order, one frame for every skill after the first; a skill that the expert skips has none.
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
    """Match found boundaries to true ones, one to one, at most `tolerance` frames apart.

    Both lists ascend, so matching every true boundary to the first unmatched one in range yields the most pairs.
    """
    matched, next_found = 0, 0
    for boundary in true:
        while next_found < len(found) and found[next_found] < boundary - tolerance:
            next_found += 1
        if next_found < len(found) and found[next_found] <= boundary + tolerance:
            matched, next_found = matched + 1, next_found + 1
    return Counter(matched=matched, found=len(found), true=len(true))


def f1(count: Count) -> float | None:
    """2 matched / (found + true); None if there are no boundaries at all."""
    total = count["found"] + count["true"]
    return 2 * count["matched"] / total if total else None


def true_boundaries(dataset: EpisodeDataset, index: int) -> list[int] | None:
    """The boundaries of an episode's expert; None if the source recorded no phases."""
    if PHASE not in dataset.features:
        return None
    phases = dataset.columns(index, [PHASE])[PHASE][:, 0]
    return expert_boundaries(phases) if (phases >= 0).all() else None


def found_boundaries(skills: Iterable[SkillRow]) -> dict[tuple[str, int], list[int]]:
    """(dataset, episode) → the frames at which its skills after the first start, before rounding to the latent grid."""
    found: dict[tuple[str, int], list[int]] = {}
    for row in skills:
        ends = found.setdefault((row.dataset, row.episode_index), [])
        if row.skill_index < row.skill_count - 1:
            ends.append(row.raw_end)
    return found


def count_boundaries(
    datasets: Mapping[str, EpisodeDataset], skills: Iterable[SkillRow], tolerance: int
) -> dict[str, Count]:
    """Task → counts over its episodes that have phases. A discarded episode counts as one with no boundary found."""
    found, counts = found_boundaries(skills), dict[str, Count]()
    for name, dataset in datasets.items():
        for record in dataset.episodes:
            true = true_boundaries(dataset, record.index)
            if true is not None:
                counts.setdefault(record.task, Counter()).update(
                    count_matches(found.get((name, record.index), []), true, tolerance)
                )
    return counts


def boundary_metrics(datasets: Mapping[str, EpisodeDataset], skills: Sequence[SkillRow]) -> BoundaryMetrics:
    """`boundary_f1_<tolerance>`, pooled, and `boundary_f1_<tolerance>_by_task`; empty if no episode has phases."""
    metrics: BoundaryMetrics = {}
    for tolerance in TOLERANCES:
        counts = count_boundaries(datasets, skills, tolerance)
        if counts:
            metrics[f"boundary_f1_{tolerance}"] = f1(sum(counts.values(), Counter()))
            metrics[f"boundary_f1_{tolerance}_by_task"] = {task: f1(count) for task, count in sorted(counts.items())}
    return metrics
