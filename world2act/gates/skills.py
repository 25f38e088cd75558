"""The gate of artifacts/skills: measures skills and discards against the episodes that they divide."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params import Params
from world2act.core.params.gates import GateSkills
from world2act.core.storage import read_parquet
from world2act.data.lerobot_v3 import EpisodeDataset
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
_CHANGED = f"the demonstrations have changed since: {_REBUILD}"
_COLUMNS = [
    "dataset",
    "episode_index",
    "subset",
    "task",
    "skill_index",
    "skill_count",
    "start",
    "end",
    "raw_end",
    "prompt",
    "provider",
]

_CONTIGUOUS = (
    "Skills are contiguous: the first starts at frame 0, every other where the one before it ended (frames between)."
)
_ON_GRID = "A skill spans whole latents: end - start is a multiple of 4 (frames too many)."
_LONG_ENOUGH = "A skill is at least one latent long after its conditioning frame (frames from start to end)."
_MOVED_LITTLE = "A boundary was moved onto the grid by less than one latent (frames)."
_NUMBERED = "The skills of an episode are numbered 0, 1, … and are as many as skill_count says."
_SAME_SPLIT = "Task and subset are those of the episode in artifacts/demos: nothing crossed the split."
_EITHER_OR = "Every episode is either divided into skills or discarded: never both, never forgotten."
_SYNCHRONISED = "Events and prompts agree in number: this share of a task's episodes was kept."
_CORRECT_PROMPTS = (
    "correct the task's entry in skills.schema_file, or the language provider's answer in transcripts.jsonl"
)
_CALIBRATE = (
    "read the reasons in discards.parquet; calibrate skills.contact and skills.motion, or correct the task's entry in "
    "skills.schema_file"
)

Episode = tuple[str, int]


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/skills. Raises `BadInput` when a file is missing or damaged."""
    datasets = {name: EpisodeDataset.open(artifacts / "demos" / name) for name in ("labelled", "video_only")}
    skills = read_parquet(artifacts / "skills/skills.parquet", _COLUMNS).to_pylist()
    discards = read_parquet(
        artifacts / "skills/discards.parquet", ["dataset", "episode_index", "task", "reason"]
    ).to_pylist()
    episodes = _episode_rows(datasets, skills, discards)
    boundaries = _boundary_rows(datasets, skills)
    rows, limits = pd.DataFrame(_skill_rows(datasets, skills)), params.gates.skills
    episode_checks = [
        one_of("state", ["skills", "discarded"], _EITHER_OR, remedy=_REBUILD),
        at_least("reason", 1, "A discarded episode has its reason.", remedy=_REBUILD, of="length"),
    ]
    task_checks = [at_least("synchronised", limits.synchronised, _SYNCHRONISED, remedy=_CALIBRATE)]
    return [
        Table("skills", rows, ("dataset", "episode_index", "skill_index", "task"), _skill_checks()),
        Table("episodes", pd.DataFrame(episodes), ("dataset", "episode_index", "task"), episode_checks),
        Table("tasks", pd.DataFrame(_task_rows(episodes)), ("dataset", "task", "episodes"), task_checks),
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


def _boundary_tables(rows: list[dict[str, Any]], limits: GateSkills) -> list[Table]:
    """One pair of tables per kind of task: each task, and all tasks of the kind together.

    A task of a dozen episodes or so may miss the threshold by chance, so it only warns; the tasks of a kind together
    stop the pipeline. Nothing is expected of a source that does not record where its skills begin.
    """
    thresholds = {True: limits.boundary_f1_prehensile, False: limits.boundary_f1_non_prehensile}
    tables = []
    for prehensile, threshold in thresholds.items():
        if tasks := [row for row in rows if row["prehensile"] == prehensile]:
            kind, calibration = ("prehensile", "contact") if prehensile else ("non_prehensile", "motion")
            total = sum((row["counts"] for row in tasks), Counter())
            per_task = [
                {"task": row["task"], "boundaries": row["counts"]["true"], "f1": f1(row["counts"])} for row in tasks
            ]
            pooled = [{"tasks": len(tasks), "boundaries": total["true"], "f1": f1(total)}]
            check = _boundary_check("of each task", threshold, calibration, "warning")
            tables.append(Table(f"{kind}_tasks", pd.DataFrame(per_task), ("task", "boundaries"), [check]))
            check = _boundary_check("of all tasks of the kind", threshold, calibration, "critical")
            tables.append(Table(f"{kind}_boundaries", pd.DataFrame(pooled), ("tasks", "boundaries"), [check]))
    return tables


def _boundary_check(scope: str, threshold: float, calibration: str, severity: Severity) -> Check:
    meaning = f"Skills begin where the expert's do: F1 of the boundaries {scope}, right within {_TOLERANCE} frames."
    remedy = f"look with `world2act skills preview`; calibrate skills.{calibration}, or leave the task out"
    return at_least("f1", threshold, meaning, remedy=remedy, severity=severity)


def _boundary_rows(datasets: Mapping[str, EpisodeDataset], skills: list[dict[str, Any]]) -> list[dict[str, Any]]:
    counts, prehensile = count_boundaries(datasets, skills, _TOLERANCE), {}
    for dataset in datasets.values():
        prehensile |= dataset.info.get("world2act", {}).get("prehensile", {})
        if missing := sorted(counts.keys() - prehensile):
            path, expected = dataset.path / "meta/info.json", "whether the expert grasps, for every task with phases"
            raise BadInput(path, "world2act.prehensile", f"nothing of {missing}", expected, "record it")
    return [
        {"task": task, "prehensile": prehensile[task], "counts": count}
        for task, count in sorted(counts.items())
        if count["true"] or count["found"]
    ]


def _skill_rows(datasets: Mapping[str, EpisodeDataset], skills: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows, last, counts = [], {}, defaultdict(int)
    for skill in skills:
        episode: Episode = (skill["dataset"], skill["episode_index"])
        records = datasets[episode[0]].episodes if episode[0] in datasets else []
        record = records[episode[1]] if 0 <= episode[1] < len(records) else None
        rows.append(
            {
                **{key: skill[key] for key in ("dataset", "episode_index", "skill_index", "task", "prompt")},
                "gap": skill["start"] - last.get(episode, 0),
                "off_grid": (skill["end"] - skill["start"]) % FRAMES_PER_LATENT,
                "steps": skill["end"] - skill["start"],
                "overrun": skill["end"] - record.length + 1 if record else skill["end"],
                "moved": skill["end"] - skill["raw_end"],
                "expected_index": counts[episode],
                "same_episode": record is not None and (record.task, record.subset) == (skill["task"], skill["subset"]),
            }
        )
        last[episode] = skill["end"]
        counts[episode] += 1
    for row, skill in zip(rows, skills, strict=True):
        if counts[skill["dataset"], skill["episode_index"]] != skill["skill_count"]:
            row["expected_index"] = -1
    return rows


def _episode_rows(
    datasets: Mapping[str, EpisodeDataset], skills: list[dict[str, Any]], discards: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    divided = {(row["dataset"], row["episode_index"]) for row in skills}
    reasons = {(row["dataset"], row["episode_index"]): row["reason"] for row in discards}
    rows = []
    for name, dataset in datasets.items():
        for record in dataset.episodes:
            key = (name, record.index)
            found = [state for state, there in (("skills", key in divided), ("discarded", key in reasons)) if there]
            state = " and ".join(found) or "forgotten"
            rows.append(
                {
                    "dataset": name,
                    "episode_index": record.index,
                    "task": record.task,
                    "state": state,
                    "reason": reasons.get(key, "not discarded"),
                }
            )
    return rows


def _task_rows(episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    frame = pd.DataFrame(episodes)
    return [
        {
            "dataset": dataset,
            "task": task,
            "episodes": len(group),
            "synchronised": float((group["state"] == "skills").mean()),
        }
        for (dataset, task), group in frame.groupby(["dataset", "task"])
    ]
