"""Adding is one file: another package's simulator, robot, policy family, post-training method and gate run here.

No existing file is edited. The stages run in order in one folder, each on what the one before it wrote.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stages import base_policy, evaluate, post_train
from tests.helpers import toy_package
from tests.helpers.paths import ROOT
from tests.helpers.toy_simulator import ToyEnvironment
from world2act.core.errors import BadInput
from world2act.core.params import Params, compose, load_params, parse_params
from world2act.core.profiles import write_profile
from world2act.core.storage import read_json, read_parquet, write_json, write_parquet
from world2act.core.tables import schema_of
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.initial_states import InitialStateRow
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.evaluation.summary import Summary
from world2act.gates.engine.registry import gate_names
from world2act.gates.engine.validate import validate
from world2act.policies.base import load_policy
from world2act.policies.dataset import describe_robot
from world2act.skills.contact import contact_events
from world2act.training.ranks import initialise

ARTIFACTS = Path("artifacts")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A pipeline under the profile `toys`, with demonstrations of the robot, in the current folder."""
    root = tmp_path_factory.mktemp("toys")
    toy_package.install(root / "packages")
    toy_package.write_profile(root)
    (root / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (root / "infra").symlink_to(ROOT / "infra")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "packages")
        patch.chdir(root)
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], check=True)
        write_profile("toys")
        make_demonstrations()
        initialise()
        yield load_params()
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_package"]:
        del sys.modules[name]


def make_demonstrations() -> None:
    robot, rng = ToyEnvironment.embodiment, np.random.default_rng(0)
    features = {
        "observation.images.front": image_feature(16, 16),
        "observation.state": array_feature(robot.proprio_names),
        "action": array_feature(robot.action_names),
    }
    labelled = ARTIFACTS / "demos/labelled"
    labelled.mkdir(parents=True)
    options = {"fps": robot.control_hz, "robot_type": robot.name, "extra": {"image_convention": "upright"}}
    with DatasetWriter(labelled, features=features, **options) as writer:
        for seed in range(3):
            arrays = {name: rng.uniform(-1, 1, (6, 2)).astype(np.float32) for name in ("observation.state", "action")}
            images = {"front": rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)}
            writer.add(encode(Episode("reach", "move to the end of the line", seed, images, arrays)))
        writer.set_splits({"train": range(2), "heldout": range(2, 3)})
    states = [
        {"set": name, "task": "reach", "seed": seed, "instruction": "move to the end of the line", "scene": [0.0]}
        for name, seed in (("post_training", 5), ("test", 7), ("test", 8))
    ]
    write_parquet(ARTIFACTS / "demos/initial_states.parquet", states, schema_of(InitialStateRow))
    for name in ("demos", "base_policy"):
        write_json(f"reports/gates/{name}.json", {"success": True, "expectations": [{"success": True}]})


def test_a_robot_is_calibrated_by_a_profile(params: Params) -> None:
    opening = np.array([0.05] * 4 + [0.03] * 4 + [0.05] * 4)
    found = contact_events(opening, params.skills.contact["toy"])
    assert [event.kind for event in found] == ["contact_onset", "contact_end"]


def test_blocks_of_the_package_are_checked_by_its_own_classes(params: Params) -> None:
    values = compose("toys")
    values["post_train"]["nudge"] = {"aim": "far", "speed": 1}
    values["gates"]["post_train"]["nudge"] = {}
    values["base_policy"]["constant"] = {}
    with pytest.raises(BadInput) as error:
        parse_params(values, "params.yaml")
    assert set(error.value.key.split(", ")) == {
        "post_train.nudge.aim",
        "post_train.nudge.speed",
        "gates.post_train.nudge.distance",
        "base_policy.constant.start",
    }


def test_the_stages_run_what_the_package_adds(params: Params) -> None:
    """A base policy is trained and checked in the simulator, post-trained, judged, and evaluated against a rival."""
    metrics = base_policy.main(params)
    assert (metrics["parameters"], metrics["errors"]) == (1, 0)
    validate("base_policy", ARTIFACTS, params)

    metrics = post_train.main(params)
    assert set(metrics) == {"action_first", "action"}
    saved = ARTIFACTS / "post_train"
    policy, start = load_policy(saved), load_policy(ARTIFACTS / "base_policy")
    assert type(policy).__module__ == "toy_package.constant"
    assert policy.predict([], []).shape == (0, 4, 2) and start.chunk_length == 4
    history = read_parquet(saved / "history.parquet", ["step", "loss", "action"]).to_pylist()
    assert [row["step"] for row in history] == [0, 1] and history[1]["action"] > history[0]["action"]
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "nudged towards an action" in card and "aim: 0.5" in card and "| base_policy | green" in card
    assert read_json(saved / "config.json")["family"] == "constant"
    validate("post_train", ARTIFACTS, params)
    checked = {record["table"] for record in read_json("reports/gates/post_train.json")["expectations"]}
    assert checked == {"history", "aims", "weights"}

    rival = ARTIFACTS / "rival"
    rival.mkdir()
    for file in ("config.json", "model.safetensors"):
        (rival / file).write_bytes((saved / file).read_bytes())
    describe_robot(EpisodeDataset.open(ARTIFACTS / "demos/labelled")).write(rival)
    metrics = evaluate.assemble(params, evaluate.compute(params, evaluate.plan(params)))
    assert metrics["episodes"] == 2 and metrics["errors"] == 0
    summary = Summary.read(ARTIFACTS / "evaluate/summary.json")
    assert set(summary.policies) == {"base", "post_train", "rival", "random"}
    assert set(summary.candidates) == {"post_train", "rival"}
    assert summary.candidates["rival"].pooled == summary.candidates["post_train"].pooled
    validate("evaluate", ARTIFACTS, params)


def test_a_gate_of_the_package_is_one_of_ours(params: Params) -> None:
    (ARTIFACTS / "notes").mkdir()
    (ARTIFACTS / "notes/notes.txt").write_text("nothing new")
    assert "notes" in gate_names()
    validate("notes", ARTIFACTS, params)
    assert read_json("reports/gates/notes.json")["success"]
