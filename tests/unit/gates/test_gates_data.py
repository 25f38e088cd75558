"""The gates of demos and skills are red and name the row when any one thing in the data is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.gate_artifacts import (
    EPISODES,
    FRAMES,
    TASKS,
    edit,
    initial_states,
    make_episodes,
    make_params,
    red,
    rewrite_groups,
    with_nan,
    write_dataset,
)
from world2act.core.storage import read_json, write_parquet
from world2act.core.tables import schema_of, write_rows
from world2act.data.initial_states import InitialStateRow
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.gates.engine.validate import validate
from world2act.skills.segmentation import DATASETS, leave_whole

PARAMS = make_params()


def test_demos_blank_still_and_wild_episodes(artifacts: Path) -> None:
    rng = np.random.default_rng(1)
    episodes = make_episodes("labelled", rng)
    episodes[0].images["front"][7:] = 128
    episodes[1].images["front"][:] = episodes[1].images["front"][0]
    episodes[3].arrays["action"][2, 1] = 1.5
    episodes[4].arrays["action"][:] = 0
    for episode in episodes:
        if episode.task == "push":
            episode.arrays["observation.environment_state"][:] = rng.uniform(-0.1, 0.1, 2)
    shutil.rmtree(artifacts / "demos/labelled")
    write_dataset(artifacts / "demos/labelled", "labelled", episodes)
    rewrite_groups(
        artifacts / "demos/labelled", lambda table, group: with_nan(table, "observation.state") if group == 2 else table
    )
    failed = red("demos", artifacts)
    assert [row["episode"] for row in failed["episodes", "contrast"]["failing_rows"]] == [0]
    assert {row["episode"] for row in failed["episodes", "change"]["failing_rows"]} == {1}
    assert failed["episodes", "finite"]["failing_rows"] == [
        {"dataset": "labelled", "episode": 2, "finite": False, "seed": 1, "task": "reach"}
    ]
    assert failed["labelled_episodes", "largest_action"]["failing_rows"][0]["episode"] == 3
    assert failed["labelled_episodes", "action_spread"]["failing_rows"][0]["episode"] == 4
    assert {row["task"] for row in failed["positions", "r2"]["failing_rows"]} == {"push"}


@pytest.mark.parametrize(("shift", "onset"), [(1, -1), (2, -2)])
def test_demos_observations_stored_after_the_step(artifacts: Path, shift: int, onset: int) -> None:
    """The fault of LIBERO's files: observation j is stored after action j."""
    shutil.rmtree(artifacts / "demos/labelled")
    write_dataset(
        artifacts / "demos/labelled", "labelled", make_episodes("labelled", np.random.default_rng(2), shift=shift)
    )
    failed = red("demos", artifacts)
    assert set(failed) == {("tasks", "onset_steps")}
    assert [row["onset_steps"] for row in failed["tasks", "onset_steps"]["failing_rows"]] == [onset] * len(TASKS)


def test_demos_actions_of_other_episodes(artifacts: Path) -> None:
    episodes = make_episodes("labelled", np.random.default_rng(3))
    actions = [episode.arrays["action.executed"] for episode in episodes]
    for episode, other in zip(episodes, actions[1:] + actions[:1], strict=True):
        episode.arrays["action.executed"] = other
    shutil.rmtree(artifacts / "demos/labelled")
    write_dataset(artifacts / "demos/labelled", "labelled", episodes)
    assert {row["task"] for row in red("demos", artifacts)["tasks", "explained"]["failing_rows"]} == set(TASKS)


def test_demos_shared_seed_missing_task_and_leaked_action(artifacts: Path) -> None:
    states = [state | {"seed": 0 if state["seed"] == 301 else state["seed"]} for state in initial_states()]
    write_parquet(
        artifacts / "demos/initial_states.parquet",
        [s for s in states if (s["set"], s["task"]) != ("post_training", "push")],
        schema_of(InitialStateRow),
    )
    leak = pa.array(np.zeros(FRAMES))
    rewrite_groups(artifacts / "demos/video_only", lambda table, group: table.append_column("robot_action", leak))
    failed = red("demos", artifacts)
    assert failed["seeds", "set_count"]["failing_rows"][0] == {"seed": 0, "sets": "labelled, test", "set_count": 2}
    assert failed["sets", "count"]["failing_rows"] == [{"set": "post_training", "task": "push", "count": 0}]
    assert failed["video_columns", "column"]["failing_rows"][0]["column"] == "robot_action"


def test_undivided_episodes_are_held_to_no_boundary(artifacts: Path) -> None:
    rows = leave_whole({name: EpisodeDataset.open(artifacts / "demos" / name) for name in DATASETS}).skills
    write_rows(artifacts / "skills/skills.parquet", SkillRow, rows)
    edit(artifacts / "skills/discards.parquet", lambda rows: rows.clear())
    params = make_params()
    whole = params.model_copy(update={"skills": params.skills.model_copy(update={"divide": False})})
    assert validate("skills", artifacts, whole)["warnings"] == 0
    assert ("prehensile_boundaries", "f1") in red("skills", artifacts)


def test_skills(artifacts: Path) -> None:
    def change(rows: list[dict]) -> None:
        rows[1]["start"] = 12
        rows[3] |= {"end": 38, "raw_end": 38}
        rows[4] |= {"end": 0}
        rows[7] |= {"end": 44, "raw_end": 44}
        rows[9]["raw_end"] = 30
        rows[11]["skill_index"] = 2
        rows[13]["prompt"] = ""
        rows[15]["subset"] = "heldout"

    edit(artifacts / "skills/skills.parquet", change)
    edit(artifacts / "skills/discards.parquet", lambda rows: [{**rows[0], "episode_index": 1, "reason": ""}])
    failed = red("skills", artifacts)

    def where(column: str) -> tuple[int, int]:
        row = failed["skills", column]["failing_rows"][0]
        return row["episode_index"], row["skill_index"]

    assert where("gap") == (1, 1) and failed["skills", "gap"]["failing_rows"][0]["gap"] == -4
    assert where("off_grid") == (2, 1)
    assert where("steps") == (3, 0)
    assert where("overrun") == (4, 1)
    assert {(row["episode_index"], row["skill_index"]) for row in failed["skills", "moved"]["failing_rows"]} >= {(5, 1)}
    assert failed["skills", "skill_index and expected_index"]["failing"] == 1
    assert where("prompt") == (7, 1)
    assert where("same_episode") == (8, 1)
    assert {row["state"] for row in failed["episodes", "state"]["failing_rows"]} == {
        "forgotten",
        "skills and discarded",
    }
    assert failed["episodes", "reason"]["failing_rows"][0]["episode_index"] == 1


def test_skills_mostly_discarded(artifacts: Path) -> None:
    edit(
        artifacts / "skills/skills.parquet",
        lambda rows: [row for row in rows if row["dataset"] == "labelled" or row["task"] == "push"],
    )
    lost = [
        {"dataset": "video_only", "episode_index": i, "subset": "train", "task": "reach", "reason": "no event"}
        for i in range(0, 20, 2)
    ]
    edit(artifacts / "skills/discards.parquet", lambda rows: [*rows, *lost])
    failed = red("skills", artifacts)
    assert set(failed) == {("tasks", "synchronised"), ("prehensile_tasks", "f1"), ("prehensile_boundaries", "f1")}
    assert failed["tasks", "synchronised"]["failing_rows"] == [
        {"dataset": "video_only", "episodes": 10, "synchronised": 0.0, "task": "reach"}
    ]


@pytest.mark.parametrize("task", TASKS)
def test_skills_that_begin_where_the_expert_s_do_not(artifacts: Path, task: str) -> None:
    def delay(rows: list[dict]) -> None:
        for row in rows:
            if row["task"] == task and row["skill_index"] == 0:
                row |= {"end": 24, "raw_end": 23}
            elif row["task"] == task:
                row["start"] = 24

    edit(artifacts / "skills/skills.parquet", delay)
    failed = red("skills", artifacts)
    kind = "prehensile" if task == TASKS[0] else "non_prehensile"
    assert set(failed) == {(f"{kind}_tasks", "f1"), (f"{kind}_boundaries", "f1")}
    assert failed[f"{kind}_tasks", "f1"]["failing_rows"] == [{"task": task, "boundaries": 2 * EPISODES, "f1": 0.0}]
    assert failed[f"{kind}_boundaries", "f1"]["severity"] == "critical"


def test_skills_of_a_source_that_knows_no_phases(artifacts: Path) -> None:
    """Without true boundaries, none are measured, and none are invented."""
    rng = np.random.default_rng(0)
    for name in ("labelled", "video_only"):
        episodes = make_episodes(name, rng)
        for episode in episodes:
            episode.arrays["expert.phase"][:] = -1
        shutil.rmtree(artifacts / "demos" / name)
        write_dataset(artifacts / "demos" / name, name, episodes)
    validate("skills", artifacts, PARAMS)
    tables = {record["table"] for record in read_json(Path("reports/gates/skills.json"))["expectations"]}
    assert tables == {"skills", "episodes", "tasks"}
