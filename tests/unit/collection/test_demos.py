"""Demonstrations: what is recorded when, four disjoint sets, and the same bytes from any number of processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.helpers.paths import ROOT
from world2act.collection.demonstrations import heldout_split, make_demonstrations
from world2act.collection.expert import demonstrate
from world2act.collection.jobs import expert_settings, plan
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.params import Demos, compose, parse_params
from world2act.core.storage import read_parquet, sha256
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.sims.rig import Rig
from world2act.sims.scene_seeds import SETS, scene_seed
from world2act.sims.simulator import load_simulator

SMALL = {
    "tasks": ["plate-slide", "coffee-push"],
    "image_size": 32,
    "labelled_per_task": 2,
    "video_only_per_task": 2,
    "post_training_per_task": 2,
    "test_per_task": 1,
    "action_noise": 0.2,
    "heldout_share": 0.2,
}


def demos(**changes: object) -> Demos:
    values = compose("default", ROOT)
    values["demos"] |= SMALL | changes
    return parse_params(values, "a test").demos


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demos")
    make_demonstrations(demos(), 0, 2, path)
    return path


def test_bytes_do_not_depend_on_the_number_of_processes(made: Path, tmp_path: Path) -> None:
    make_demonstrations(demos(), 0, 1, tmp_path)
    assert sha256(tmp_path) == sha256(made)


def test_frame_t_is_seen_before_action_t(made: Path) -> None:
    """Replaying the executed actions meets every recorded frame, state and label in step."""
    dataset = EpisodeDataset.open(made / "labelled")
    for record in dataset.episodes[:2]:
        environment = load_simulator("metaworld").make_environment(record.task, Rig.from_params(demos()))
        environment.reset(record.seed)
        episode = dataset.episode(record.index)
        noise = episode["action.executed"] - episode["action"]
        assert 0.02 < np.abs(noise).mean() < 0.3
        success = False
        for t in range(record.length):
            observation = environment.observe()
            np.testing.assert_array_equal(observation.images["corner2"], episode["observation.images.corner2"][t])
            np.testing.assert_array_equal(observation.proprio, episode["observation.state"][t])
            np.testing.assert_array_equal(observation.scene, episode["observation.environment_state"][t])
            np.testing.assert_array_equal(environment.expert_action(), episode["action"][t])
            success = environment.step(episode["action.executed"][t]) or success
        assert success


def test_video_only_has_no_action_anywhere(made: Path) -> None:
    path = made / "video_only"
    columns = pq.ParquetFile(path / "data/chunk-000/file-000.parquet").schema_arrow.names
    columns += pq.ParquetFile(path / "meta/episodes/chunk-000/file-000.parquet").schema_arrow.names
    columns += [
        *json.loads((path / "meta/info.json").read_text())["features"],
        *json.loads((path / "meta/stats.json").read_text()),
    ]
    assert "observation.state" in columns
    assert not [name for name in columns if "action" in name]


def test_four_sets_of_disjoint_seeds(made: Path) -> None:
    states = read_parquet(made / "initial_states.parquet").to_pylist()
    seeds = {name: {row["seed"] for row in states if row["set"] == name} for name in ("post_training", "test")}
    seeds |= {name: {e.seed for e in EpisodeDataset.open(made / name).episodes} for name in ("labelled", "video_only")}
    assert sorted(seeds) == sorted(SETS) and all(seeds.values())
    assert len(set().union(*seeds.values())) == sum(map(len, seeds.values()))
    assert len(states) == 6 and all(len(row["scene"]) == 9 and row["instruction"] for row in states)


def test_seeds_of_sets_never_meet_even_after_failed_attempts() -> None:
    many = demos(labelled_per_task=500, video_only_per_task=500, post_training_per_task=500, test_per_task=500)
    ranges = [{seed for job in plan(many, base, name) for seed in job.seeds} for base in (0, 1) for name in SETS]
    assert len(set().union(*ranges)) == sum(map(len, ranges))
    assert all(job.seeds[0] == scene_seed(1, "test", i // 2) for i, job in enumerate(plan(many, 1, "test")))


def test_split_is_by_episode_with_every_task_on_both_sides(made: Path) -> None:
    dataset = EpisodeDataset.open(made / "labelled")
    assert dataset.splits == {"train": range(2), "heldout": range(2, 4)}
    for subset in ("train", "heldout"):
        assert {e.task for e in dataset.episodes if e.subset == subset} == {"plate-slide", "coffee-push"}
    assert heldout_split(160, 4, 0.2) == {"train": range(128), "heldout": range(128, 160)}
    with pytest.raises(BadInput, match="at least 2"):
        heldout_split(3, 3, 0.2)


def test_what_was_done_is_recorded(made: Path) -> None:
    info = EpisodeDataset.open(made / "video_only").info
    assert info["robot_type"] == "sawyer" and info["fps"] == 80
    assert info["world2act"]["settle_steps"] == 5 and info["world2act"]["action_noise"] == 0.2
    assert info["world2act"]["cameras"][0]["name"] == "corner2" and info["world2act"]["renderer"].startswith(
        os.environ["MUJOCO_GL"]
    )


def test_an_expert_that_fails_leaves_no_episode(tmp_path: Path) -> None:
    hurried = demos(max_steps=5)
    environment = load_simulator("metaworld").make_environment("plate-slide", Rig.from_params(hurried))
    assert demonstrate(environment, 0, expert_settings(hurried)) is None
    with pytest.raises(InfrastructureError, match=r"plate-slide.*\n.*failed"):
        make_demonstrations(hurried, 0, 1, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("tasks", ["hammer", "hamer"], "demos.tasks"),
        ("tasks", ["hammer", "hammer"], "every task once"),
        ("tasks", [], "demos.tasks"),
        ("simulator", "gazebo", "demos.simulator"),
        ("labelled_per_task", 0, "demos.labelled_per_task"),
    ],
)
def test_bad_parameters_end_in_one_message_and_keep_the_old_artifact(
    tmp_path: Path, key: str, value: object, named: str
) -> None:
    values = compose("default", ROOT)
    values["demos"][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/ingested.json", tmp_path / "data")
    (tmp_path / "artifacts/demos").mkdir(parents=True)
    (tmp_path / "artifacts/demos/old").touch()
    command = [sys.executable, "-m", "stages.demos"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 2 and named in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert [p.name for p in (tmp_path / "artifacts/demos").iterdir()] == ["old"]
    assert [p.name for p in (tmp_path / "artifacts").iterdir()] == ["demos"]
