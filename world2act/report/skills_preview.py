"""A page about a dataset's skills: frames, signals, boundaries, prompts and discards of some episodes; figures of all.

Any canonical dataset will do. Without its artifacts/skills, the page shows the events at which skills could end.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from world2act.core.errors import BadInput
from world2act.core.tables import read_rows
from world2act.data.lerobot_v3 import EpisodeDataset, EpisodeRecord
from world2act.data.recording import STATE, ee_force, ee_position, gripper_opening
from world2act.data.skill_table import DiscardRow, SkillRow
from world2act.report import html
from world2act.report.skills_chart import LEFT, RIGHT, Cut, Signals, episode_chart
from world2act.skills.boundaries import TOLERANCES, count_boundaries, f1, found_boundaries, true_boundaries
from world2act.skills.events import Calibration, find_events
from world2act.skills.segmentation import PAPER

_FRAMES = 12
_PIXELS = 128


@dataclass(frozen=True)
class Divided:
    """What artifacts/skills records about a dataset: the skills of its episodes, and why the others were discarded."""

    skills: dict[int, list[SkillRow]]
    reasons: dict[int, str]


@dataclass(frozen=True)
class _Task:
    """A row of the table of tasks, over all episodes of a task; None where the dataset has not been divided.

    Attributes:
        frames, clip_frames: median lengths of episodes and of clips.
        f1: of the boundaries, for each of `TOLERANCES`.
    """

    task: str
    episodes: int
    frames: float
    synchronised: float | None
    clips: int
    clip_frames: float | None
    f1: list[float | None]


@dataclass(frozen=True)
class _Episode:
    """An episode on the page. `found` and `true` are boundaries, `reason` says why it was discarded."""

    record: EpisodeRecord
    strips: dict[str, str]
    chart: Markup
    skills: list[SkillRow]
    found: list[int]
    true: list[int] | None
    reason: str | None


def render(dataset: EpisodeDataset, skills: Path | None, calibration: Calibration, episodes_per_task: int) -> str:
    """Render the page.

    Args:
        skills: a folder as the stage `skills` writes it; None for none.
        calibration: an embodiment that is missing in it has no events on the page.

    Raises:
        BadInput: `skills` does not divide this dataset, or the dataset names neither opening nor fingers.
    """
    divided = read_divided(dataset, skills) if skills else None
    if "ee_x_m" not in (dataset.features[STATE]["names"] or []):
        calibration = replace(calibration, motion={})
    shown = _choose(dataset, divided, episodes_per_task)
    return html.load_template("skills_preview.html.j2").render(
        style=html.style(),
        dataset=dataset,
        name=_name(dataset),
        skills=skills,
        tasks=_tasks(dataset, divided),
        divided=divided,
        tolerances=TOLERANCES,
        paper=PAPER,
        margins=(100 * LEFT, 100 * (1 - RIGHT)),
        calibrated=dataset.info["robot_type"] in calibration.contact,
        episodes=[_episode(dataset, record, divided, calibration) for record in shown],
    )


def read_divided(dataset: EpisodeDataset, skills: Path) -> Divided:
    """The rows of `skills` that belong to `dataset`, found by the name of the dataset's folder.

    Raises:
        BadInput: they are not of this dataset: an episode of another task or length, or one that is missing.
    """
    name = _name(dataset)
    by_episode: dict[int, list[SkillRow]] = defaultdict(list)
    for row in read_rows(skills / "skills.parquet", SkillRow):
        if row.dataset == name:
            by_episode[row.episode_index].append(row)
    discards = read_rows(skills / "discards.parquet", DiscardRow)
    reasons = {discard.episode_index: discard for discard in discards if discard.dataset == name}
    for record in dataset.episodes:
        divided, discard = by_episode.get(record.index, []), reasons.get(record.index)
        count = len(divided) + (discard is not None)
        tasks = {row.task for row in divided} | ({discard.task} if discard else set())
        if tasks != {record.task} or any(row.end >= record.length for row in divided):
            found = f"{count} rows that do not fit its task or its length" if count else "nothing"
            expected, remedy = "its skills or its discard", "name the skills of this dataset with --skills"
            raise BadInput(skills, f"dataset {name}, episode {record.index}", found, expected, remedy)
    return Divided(dict(by_episode), {index: discard.reason for index, discard in reasons.items()})


def _name(dataset: EpisodeDataset) -> str:
    return dataset.path.resolve().name


def _choose(dataset: EpisodeDataset, divided: Divided | None, per_task: int) -> list[EpisodeRecord]:
    """For each task, discarded episodes up to half of the number, then the first of the others."""
    by_task: dict[str, list[EpisodeRecord]] = defaultdict(list)
    for record in dataset.episodes:
        by_task[record.task].append(record)
    chosen = []
    for records in by_task.values():
        lost = [record for record in records if divided and record.index in divided.reasons]
        kept = [record for record in records if record not in lost]
        some = lost[: max(per_task // 2, per_task - len(kept))]
        chosen += sorted([*some, *kept[: per_task - len(some)]], key=lambda record: record.index)
    return sorted(chosen, key=lambda record: (record.task, record.index))


def _tasks(dataset: EpisodeDataset, divided: Divided | None) -> list[_Task]:
    rows = [row for skills in divided.skills.values() for row in skills] if divided else []
    scores = {t: count_boundaries({_name(dataset): dataset}, rows, t) for t in TOLERANCES}
    tasks = []
    for task in sorted({record.task for record in dataset.episodes}):
        records = [record for record in dataset.episodes if record.task == task]
        clips = [row.end - row.start + 1 for row in rows if row.task == task]
        lost = sum(record.index in divided.reasons for record in records) if divided else 0
        tasks.append(
            _Task(
                task=task,
                episodes=len(records),
                frames=float(np.median([record.length for record in records])),
                synchronised=1 - lost / len(records) if divided else None,
                clips=len(clips),
                clip_frames=float(np.median(clips)) if clips else None,
                f1=[f1(scores[t][task]) if divided and task in scores[t] else None for t in TOLERANCES],
            )
        )
    return tasks


def _episode(
    dataset: EpisodeDataset, record: EpisodeRecord, divided: Divided | None, calibration: Calibration
) -> _Episode:
    signals = _signals(dataset, record.index, calibration)
    events = find_events(dataset, record.index, calibration) if signals.contact else ()
    skills = divided.skills.get(record.index, []) if divided else []
    true = true_boundaries(dataset, record.index)
    found = found_boundaries(skills).get((_name(dataset), record.index), [])
    cut = Cut([(row.start, row.end) for row in skills], found, events, true)
    return _Episode(
        record=record,
        strips={camera: html.png(_strip(dataset, record, camera)) for camera in dataset.cameras},
        chart=episode_chart(signals, cut, f"episode {record.index}"),
        skills=skills,
        found=found,
        true=true,
        reason=divided.reasons.get(record.index) if divided else None,
    )


def _signals(dataset: EpisodeDataset, index: int, calibration: Calibration) -> Signals:
    arrays, embodiment = dataset.columns(index, [STATE]), dataset.info["robot_type"]
    return Signals(
        fps=dataset.fps,
        opening_m=gripper_opening(dataset, arrays),
        position_m=ee_position(dataset, arrays) if "ee_x_m" in (dataset.features[STATE]["names"] or []) else None,
        force_n=ee_force(dataset, arrays),
        contact=calibration.contact.get(embodiment),
        motion=calibration.motion.get(embodiment),
        touch=calibration.touch.get(embodiment),
    )


def _strip(dataset: EpisodeDataset, record: EpisodeRecord, camera: str) -> np.ndarray:
    """Twelve frames side by side, evenly spaced over the episode; at most 128 pixels high."""
    which = ((np.arange(_FRAMES) + 0.5) * record.length / _FRAMES).astype(int).tolist()
    strip = Image.fromarray(np.concatenate(list(dataset.frames(record.index, camera, which)), axis=1))
    if strip.height > _PIXELS:
        strip = strip.resize((round(strip.width * _PIXELS / strip.height), _PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(strip)
