"""The protocol that a policy carries, and the card that the pipeline writes beside it."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params
from world2act.core.storage import read_json, sha256, write_json
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.behaviour_cloning.params import Parameters
from world2act.policies.card import Card, write_card
from world2act.policies.dataset import describe_robot
from world2act.policies.robot import RobotDescription
from world2act.sims.metaworld import EMBODIMENT, IMAGE_CONVENTION

VALUES = compose("default", ROOT)
VALUES["base_policy"]["family"] = "behaviour_cloning"
PARAMS = parse_params(VALUES, "params.yaml")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EpisodeDataset:
    monkeypatch.chdir(tmp_path)
    folder = Path("artifacts/demos/labelled")
    folder.mkdir(parents=True)
    features = {
        "observation.images.corner2": image_feature(64, 64),
        "observation.state": array_feature(EMBODIMENT.proprio_names),
        "action": array_feature(EMBODIMENT.action_names),
    }
    extra = {"image_convention": IMAGE_CONVENTION}
    with DatasetWriter(folder, features=features, fps=80, robot_type="sawyer", extra=extra) as writer:
        for seed in range(3):
            arrays = {name: np.zeros((5, 4), np.float32) for name in ("observation.state", "action")}
            writer.add(encode(Episode("t", "go", seed, {"corner2": np.zeros((5, 64, 64, 3), np.uint8)}, arrays)))
        writer.set_splits({"train": range(2), "heldout": range(2, 3)})
    expectations = [{"success": True}, {"success": True}, {"success": False}]
    write_json("reports/gates/demos.json", {"success": True, "expectations": expectations})
    write_json("policy/config.json", {"family": "behaviour_cloning", "chunk_length": 4, "action_dim": 4})
    return EpisodeDataset.open(folder)


def test_demonstrations_have_the_robot_of_their_simulator(dataset: EpisodeDataset) -> None:
    assert describe_robot(dataset) == RobotDescription.of_simulator(PARAMS.demos)


def test_a_policy_of_another_robot_is_refused(dataset: EpisodeDataset) -> None:
    ours, directory = describe_robot(dataset), Path("policy")
    with pytest.raises(BadInput, match="protocol\n  found:    None"):
        ours.check(directory)
    ours.write(directory)
    ours.check(directory)
    assert read_json("policy/config.json")["chunk_length"] == 4
    for change in ({"embodiment": "panda"}, {"cameras": ("corner",)}, {"image_size": 128}, {"actions": ("x",)}):
        with pytest.raises(BadInput) as error:
            replace(ours, **change).check(directory)
        ((name, value),) = change.items()
        assert error.value.key == f"protocol.{name}" and error.value.expected == {name: value}
        assert error.value.found == {name: getattr(ours, name)}
    write_json("policy/config.json", {"family": "random", "protocol": asdict(ours) | {"gripper": "two"}})
    with pytest.raises(BadInput, match="gripper"):
        ours.check(directory)


def test_the_card_says_what_the_policy_is_made_of(dataset: EpisodeDataset) -> None:
    describe_robot(dataset).write(Path("policy"))
    cards = []
    for _ in range(2):
        metrics = {"success_base": 0.65, "training_frames": 10}
        card = Card("squared error", PARAMS.base_policy.settings(), ["demos"], metrics, "a" * 64 + "b" * 64)
        write_card(Path("policy"), PARAMS, card)
        cards.append(Path("policy/README.md").read_text(encoding="utf-8"))
    assert cards[0] == cards[1]
    for said in (
        "# behaviour_cloning for sawyer",
        "Family `behaviour_cloning`: squared error.",
        "| success_base | 0.65 |",
        "| demos | green, 2 of 3 expectations |",
        f"| demos | `{sha256('artifacts/demos')}` |",
        f"from elsewhere | `{'a' * 64}`, `{'b' * 64}` |",
        "3 labelled episodes, 15 frames",
        "heldout 2:3, train 0:2",
        "delta_x, delta_y, delta_z, gripper_effort",
    ):
        assert said in cards[0], said
    head, settings = yaml.safe_load(cards[0].split("---")[1]), yaml.safe_load(cards[0].split("```")[1][5:])
    assert head["tags"] == ["robotics", "behaviour_cloning"]
    assert settings["behaviour_cloning"] == PARAMS.base_policy.block(Parameters).model_dump()
    assert "gr00t" not in settings and str(Path.cwd()) not in cards[0]
