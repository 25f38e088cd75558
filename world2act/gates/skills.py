"""The gate of artifacts/skills: clips, prompts and discards in, tables with expectations out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.params.gates import GateSkills
from world2act.core.storage import read_parquet
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates.engine import Table, why
from world2act.skills.boundaries import count_boundaries, f1

_GRID = 4
_TOLERANCE = 5
_AGAIN = "delete artifacts/skills and run `dvc repro skills`"
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

Episode = tuple[str, int]


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/skills against the episodes it divides. Raises `BadInput` when a file is missing or damaged."""
    datasets = {name: EpisodeDataset.open(artifacts / "demos" / name) for name in ("labelled", "video_only")}
    skills = read_parquet(artifacts / "skills/skills.parquet", _COLUMNS).to_pylist()
    discards = read_parquet(
        artifacts / "skills/discards.parquet", ["dataset", "episode_index", "task", "reason"]
    ).to_pylist()
    episodes = _episode_rows(datasets, skills, discards)
    boundaries = _boundary_rows(datasets, skills)
    return [
        Table(
            "skills",
            pd.DataFrame(_skill_rows(datasets, skills)),
            ("dataset", "episode_index", "skill_index", "task"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="gap",
                    min_value=0,
                    max_value=0,
                    **why(
                        "Skills are contiguous: the first starts at frame 0, each next one where the one before "
                        "ended (frames between).",
                        _AGAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="off_grid",
                    min_value=0,
                    max_value=0,
                    **why("A skill spans whole latents: end - start is a multiple of 4 (frames too many).", _AGAIN),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="steps",
                    min_value=_GRID,
                    **why(
                        "A skill is at least one latent long behind its conditioning frame (frames from start to end).",
                        _AGAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="overrun",
                    max_value=0,
                    **why(
                        "A skill ends inside its episode (frames beyond the last one).",
                        f"the demonstrations changed since: {_AGAIN}",
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="moved",
                    min_value=-_GRID + 1,
                    max_value=_GRID - 1,
                    **why("A boundary was moved onto the grid by less than one latent (frames).", _AGAIN),
                ),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="skill_index",
                    column_B="expected_index",
                    **why("Skills of an episode are numbered 0, 1, … and as many as skill_count says.", _AGAIN),
                ),
                gxe.ExpectColumnValueLengthsToBeBetween(
                    column="prompt",
                    min_value=3,
                    **why(
                        "Every skill has a prompt.",
                        "correct the task's entry in skills.schema_file, or the language provider's answer in "
                        "transcripts.jsonl",
                    ),
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="same_episode",
                    value_set=[True],
                    **why(
                        "Task and subset are those of the episode in artifacts/demos: nothing crossed the split.",
                        f"the demonstrations changed since: {_AGAIN}",
                    ),
                ),
            ],
        ),
        Table(
            "episodes",
            pd.DataFrame(episodes),
            ("dataset", "episode_index", "task"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="state",
                    value_set=["skills", "discarded"],
                    **why(
                        "Every episode is either divided into skills or discarded, never both, never forgotten.", _AGAIN
                    ),
                ),
                gxe.ExpectColumnValueLengthsToBeBetween(
                    column="reason", min_value=1, **why("A discarded episode has its reason.", _AGAIN)
                ),
            ],
        ),
        Table(
            "tasks",
            pd.DataFrame(_task_rows(episodes)),
            ("dataset", "task", "episodes"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="synchronised",
                    min_value=params.gates.skills.synchronised,
                    **why(
                        "Events and prompts agree in number: this share of a task's episodes was kept.",
                        "read the reasons in discards.parquet; calibrate skills.contact and skills.motion, or "
                        "correct the task's entry in skills.schema_file",
                    ),
                ),
            ],
        ),
        # an episode that was left whole has no boundary to find
        *(_boundary_tables(boundaries, params.gates.skills) if params.skills.divide else ()),
    ]


def _boundary_tables(rows: list[dict[str, Any]], limits: GateSkills) -> list[Table]:
    """Nothing is expected of a source that does not know where its skills begin.

    A task of some dozen episodes may miss the floor by chance: it warns; the tasks of a kind together stop the line.
    """
    floors = {True: limits.boundary_f1_prehensile, False: limits.boundary_f1_non_prehensile}
    tables = []
    for prehensile, floor in floors.items():
        tasks = [row for row in rows if row["prehensile"] == prehensile]
        if not tasks:
            continue
        kind, calibration = ("prehensile", "contact") if prehensile else ("non_prehensile", "motion")
        together = sum((row["counts"] for row in tasks), Counter())
        every = [{"task": row["task"], "boundaries": row["counts"]["true"], "f1": f1(row["counts"])} for row in tasks]
        pooled = [{"tasks": len(tasks), "boundaries": together["true"], "f1": f1(together)}]
        meaning = f"Skills begin where the expert's do: F1 of the boundaries, right within {_TOLERANCE} frames"
        remedy = f"look with `world2act skills preview`; calibrate skills.{calibration}, or leave the task out"
        for suffix, measured, ids, which, severity in (
            ("tasks", every, ("task", "boundaries"), "of each task.", "warning"),
            ("boundaries", pooled, ("tasks", "boundaries"), "of all tasks of the kind.", "critical"),
        ):
            expectation = gxe.ExpectColumnValuesToBeBetween(
                column="f1", min_value=floor, severity=severity, **why(f"{meaning}, {which}", remedy)
            )
            tables.append(Table(f"{kind}_{suffix}", pd.DataFrame(measured), ids, [expectation]))
    return tables


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
                "off_grid": (skill["end"] - skill["start"]) % _GRID,
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
