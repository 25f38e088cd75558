"""The gate of artifacts/skills: measures skills and discards against the episodes that they divide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params import Params
from world2act.core.params.gates import GateSkills
from world2act.core.tables import read_rows
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import DiscardRow, SkillRow
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import (
    Check,
    Severity,
    at_least,
    at_most,
    between,
    equal,
    is_true,
    one_of,
    rebuild,
)
from world2act.skills.boundaries import count_boundaries, f1

_TOLERANCE = 5
_REBUILD = rebuild("skills")
_CHANGED = f"the demonstrations have changed since they were divided: {_REBUILD}"
_CONTIGUOUS = (
    "Skills are contiguous: the first starts at frame 0, every other one where the previous one ended (gap in frames)."
)
_ON_GRID = "A skill spans whole latents: end - start is a multiple of 4 (frames left over)."
_LONG_ENOUGH = "A skill is at least one latent long after its conditioning frame (frames from start to end)."
_MOVED_LITTLE = "Rounding to the grid moved every boundary by less than one latent (frames)."
_NUMBERED = "The skills of an episode are numbered 0, 1, … and their number is skill_count."
_SAME_SPLIT = "Task and subset are those of the episode in artifacts/demos, so nothing crossed the split."
_EITHER_OR = "Every episode is either divided into skills or discarded, and not both."
_SYNCHRONISED = "Events match prompts in enough episodes (share of a task's episodes that was kept)."
_CORRECT_PROMPTS = (
    "correct the task's entry in skills.schema_file, or the language provider's answer in transcripts.jsonl"
)
_CALIBRATE = (
    "read the reasons in discards.parquet; calibrate skills.contact and skills.motion, or correct the task's entry in "
    "skills.schema_file"
)

Episode = tuple[str, int]


@dataclass(frozen=True)
class _Skill:
    dataset: str
    episode_index: int
    skill_index: int
    task: str
    prompt: str
    gap: int
    off_grid: int
    steps: int
    overrun: int
    moved: int
    expected_index: int
    same_episode: bool


@dataclass(frozen=True)
class _Episode:
    dataset: str
    episode_index: int
    task: str
    state: str
    reason: str


@dataclass(frozen=True)
class _Task:
    dataset: str
    task: str
    episodes: int
    synchronised: float


@dataclass(frozen=True)
class _TaskF1:
    task: str
    boundaries: int
    f1: float | None


@dataclass(frozen=True)
class _PooledF1:
    tasks: int
    boundaries: int
    f1: float | None


@dataclass(frozen=True)
class _TaskBoundaries:
    """Matched, found and true boundaries of one task, and whether its expert grasps."""

    task: str
    prehensile: bool
    counts: Counter[str]


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/skills. Raises `BadInput` when a file is missing or damaged."""
    datasets = {name: EpisodeDataset.open(artifacts / "demos" / name) for name in ("labelled", "video_only")}
    skills = read_rows(artifacts / "skills/skills.parquet", SkillRow)
    discards = read_rows(artifacts / "skills/discards.parquet", DiscardRow)
    episodes = _measure_episodes(datasets, skills, discards)
    boundaries = _boundaries(datasets, skills)
    rows, limits = _measure_skills(datasets, skills), params.gates.skills
    episode_checks = [
        one_of("state", ["skills", "discarded"], _EITHER_OR, remedy=_REBUILD),
        at_least("reason", 1, "Every discarded episode has a reason.", remedy=_REBUILD, of="length"),
    ]
    task_checks = [at_least("synchronised", limits.synchronised, _SYNCHRONISED, remedy=_CALIBRATE)]
    return [
        Table.of("skills", _Skill, rows, ("dataset", "episode_index", "skill_index", "task"), _skill_checks()),
        Table.of("episodes", _Episode, episodes, ("dataset", "episode_index", "task"), episode_checks),
        Table.of("tasks", _Task, _measure_tasks(episodes), ("dataset", "task", "episodes"), task_checks),
        # an episode that was not divided has no boundary to find
        *(_boundary_tables(boundaries, limits) if params.skills.divide else ()),
    ]


def _skill_checks() -> list[Check]:
    return [
        between("gap", 0, 0, _CONTIGUOUS, remedy=_REBUILD),
        between("off_grid", 0, 0, _ON_GRID, remedy=_REBUILD),
        at_least("steps", FRAMES_PER_LATENT, _LONG_ENOUGH, remedy=_REBUILD),
        at_most("overrun", 0, "A skill ends inside its episode (frames beyond the last one).", remedy=_CHANGED),
        between("moved", -FRAMES_PER_LATENT + 1, FRAMES_PER_LATENT - 1, _MOVED_LITTLE, remedy=_REBUILD),
        equal("skill_index", "expected_index", _NUMBERED, remedy=_REBUILD),
        at_least("prompt", 3, "Every skill has a prompt.", remedy=_CORRECT_PROMPTS, of="length"),
        is_true("same_episode", _SAME_SPLIT, remedy=_CHANGED),
    ]


def _boundary_tables(tasks: Sequence[_TaskBoundaries], limits: GateSkills) -> list[Table]:
    """Two tables per kind of task: every task by itself, and all tasks of the kind together.

    A single task has only about a dozen episodes and may miss the threshold by chance, so it only gives a warning; all
    tasks of a kind together can stop the pipeline. A source that does not record boundaries is not checked.
    """
    thresholds = {True: limits.boundary_f1_prehensile, False: limits.boundary_f1_non_prehensile}
    tables = []
    for prehensile, threshold in thresholds.items():
        if of_kind := [task for task in tasks if task.prehensile == prehensile]:
            kind, calibration = ("prehensile", "contact") if prehensile else ("non_prehensile", "motion")
            total = sum((task.counts for task in of_kind), Counter[str]())
            per_task = [_TaskF1(task.task, task.counts["true"], f1(task.counts)) for task in of_kind]
            pooled = [_PooledF1(len(of_kind), total["true"], f1(total))]
            check = _boundary_check("of each task", threshold, calibration, "warning")
            tables.append(Table.of(f"{kind}_tasks", _TaskF1, per_task, ("task", "boundaries"), [check]))
            check = _boundary_check(
                f"of all {kind.replace('_', '-')} tasks together", threshold, calibration, "critical"
            )
            tables.append(Table.of(f"{kind}_boundaries", _PooledF1, pooled, ("tasks", "boundaries"), [check]))
    return tables


def _boundary_check(scope: str, threshold: float, calibration: str, severity: Severity) -> Check:
    meaning = f"Boundaries agree with the expert's within {_TOLERANCE} frames (F1 of the boundaries {scope})."
    remedy = f"look with `world2act skills preview`; calibrate skills.{calibration}, or leave the task out"
    return at_least("f1", threshold, meaning, remedy=remedy, severity=severity)


def _boundaries(datasets: Mapping[str, EpisodeDataset], skills: Sequence[SkillRow]) -> list[_TaskBoundaries]:
    counts, prehensile = count_boundaries(datasets, skills, _TOLERANCE), dict[str, bool]()
    for dataset in datasets.values():
        prehensile |= dataset.info.get("world2act", {}).get("prehensile", {})
        if missing := sorted(counts.keys() - prehensile):
            path, expected = dataset.path / "meta/info.json", "for every task with phases, whether its expert grasps"
            remedy = "add the tasks, true or false, in the program that records the dataset"
            raise BadInput(path, "world2act.prehensile", f"no entry for {missing}", expected, remedy)
    return [
        _TaskBoundaries(task, prehensile[task], count)
        for task, count in sorted(counts.items())
        if count["true"] or count["found"]
    ]


def _measure_skills(datasets: Mapping[str, EpisodeDataset], skills: Sequence[SkillRow]) -> list[_Skill]:
    sizes = Counter((skill.dataset, skill.episode_index) for skill in skills)
    last: dict[Episode, int] = {}
    numbers: Counter[Episode] = Counter()
    rows = []
    for skill in skills:
        episode = (skill.dataset, skill.episode_index)
        records = datasets[skill.dataset].episodes if skill.dataset in datasets else []
        record = records[skill.episode_index] if 0 <= skill.episode_index < len(records) else None
        rows.append(
            _Skill(
                dataset=skill.dataset,
                episode_index=skill.episode_index,
                skill_index=skill.skill_index,
                task=skill.task,
                prompt=skill.prompt,
                gap=skill.start - last.get(episode, 0),
                off_grid=(skill.end - skill.start) % FRAMES_PER_LATENT,
                steps=skill.end - skill.start,
                overrun=skill.end - record.length + 1 if record else skill.end,
                moved=skill.end - skill.raw_end,
                expected_index=numbers[episode] if sizes[episode] == skill.skill_count else -1,
                same_episode=record is not None and (record.task, record.subset) == (skill.task, skill.subset),
            )
        )
        last[episode] = skill.end
        numbers[episode] += 1
    return rows


def _measure_episodes(
    datasets: Mapping[str, EpisodeDataset], skills: Sequence[SkillRow], discards: Sequence[DiscardRow]
) -> list[_Episode]:
    divided = {(skill.dataset, skill.episode_index) for skill in skills}
    reasons = {(discard.dataset, discard.episode_index): discard.reason for discard in discards}
    rows = []
    for name, dataset in datasets.items():
        for record in dataset.episodes:
            key = (name, record.index)
            states = [state for state, known in (("skills", divided), ("discarded", reasons)) if key in known]
            state = " and ".join(states) or "forgotten"
            rows.append(_Episode(name, record.index, record.task, state, reasons.get(key, "not discarded")))
    return rows


def _measure_tasks(episodes: Sequence[_Episode]) -> list[_Task]:
    states: dict[tuple[str, str], list[str]] = {}
    for episode in episodes:
        states.setdefault((episode.dataset, episode.task), []).append(episode.state)
    return [
        _Task(dataset, task, len(of_task), of_task.count("skills") / len(of_task))
        for (dataset, task), of_task in sorted(states.items())
    ]
