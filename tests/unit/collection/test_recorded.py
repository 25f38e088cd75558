"""Recorded demonstrations in place of the experts': dealt out by task, at the pipeline's image size, gate and all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.recordings import episodes, params, write_upload
from world2act.collection.demonstrations import make_demonstrations
from world2act.collection.recorded import FOLDER, open_recorded
from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.storage import read_json, write_json
from world2act.data.episodes import Episode
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates.engine.validate import validate
from world2act.sims.simulator import load_simulator

LAG = {"declared_lag": 1, "measured_lag": 1, "explained": 0.9, "episodes": 5}


def record(path: Path, recordings: list[Episode], *, video_only: bool = False) -> Path:
    """A dataset as an import leaves it; no seed, no scene."""
    write_upload(path, recordings, video_only=video_only)
    info = read_json(path / "meta/info.json")
    info["world2act"]["alignment"] = LAG
    write_json(path / "meta/info.json", info)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five recorded episodes, one of them without actions, in two datasets."""
    monkeypatch.chdir(tmp_path)
    record(FOLDER / "robot", [replace(each, instruction="shove it") for each in episodes(0, 1, 2)])
    record(FOLDER / "camera", episodes(3), video_only=True)
    return tmp_path


def parameters(**changes: object) -> Params:
    return params(recorded=["robot", "camera"], **changes)


def test_episodes_with_actions_are_labelled_first_and_the_rest_is_video(workspace: Path) -> None:
    make_demonstrations(parameters().demos, 0, 2, workspace)
    labelled, video = (EpisodeDataset.open(workspace / name) for name in ("labelled", "video_only"))
    assert (labelled.splits, video.splits) == ({"train": range(1), "heldout": range(1, 2)},) * 2
    assert labelled.features.keys() & {"action", "action.executed", "expert.phase"} == {"action"}
    for dataset, numbers in ((labelled, (0, 1)), (video, (3, 2))):
        for index, number in enumerate(numbers):
            one, two = dataset.episode(index), episodes(number)[0]
            np.testing.assert_array_equal(one["observation.images.corner2"], two.images["corner2"])
            np.testing.assert_array_equal(one["observation.state"], two.arrays["observation.state"])
    assert "action" not in video.features
    np.testing.assert_array_equal(labelled.episode(1)["action"], episodes(1)[0].arrays["action"])
    seeds = [e.seed for dataset in (labelled, video) for e in dataset.episodes]
    assert seeds == [-1, -2, -3, -4], "no scene of the simulator's, and none of them twice"
    words = {e.instruction for dataset in (labelled, video) for e in dataset.episodes}
    assert words == {load_simulator("metaworld").tasks["plate-slide"].instruction}, "those of the test"
    assert labelled.info["world2act"]["recorded"] == {"robot": LAG}


def test_the_gate_is_green_and_red_for_another_lag(workspace: Path) -> None:
    opened = parameters()
    folder = workspace / "artifacts/demos"
    folder.mkdir(parents=True)
    make_demonstrations(opened.demos, 0, 2, folder)
    validate("demos", Path("artifacts"), opened)
    info = read_json(folder / "labelled/meta/info.json")
    info["world2act"]["recorded"]["robot"] = LAG | {"measured_lag": 0}
    write_json(folder / "labelled/meta/info.json", info)
    with pytest.raises(Exception, match="lag that was measured"):
        validate("demos", Path("artifacts"), opened)


def test_larger_frames_are_averaged_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(FOLDER / "robot", episodes(0, 1, 2))
    record(FOLDER / "camera", episodes(3), video_only=True)
    make_demonstrations(parameters(image_size=16).demos, 0, 2, tmp_path)
    frame = EpisodeDataset.open(tmp_path / "labelled").frames(0, "corner2", [0])[0]
    large = episodes(0)[0].images["corner2"][0]
    expected = large.reshape(16, 2, 16, 2, 3).astype(float).mean((1, 3))
    assert frame.shape == (16, 16, 3) and np.abs(frame - expected).max() <= 1
    assert np.array_equal(frame, np.asarray(Image.fromarray(large).resize((16, 16), Image.Resampling.BOX)))


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"labelled_per_task": 4}, "plate-slide", "3 episodes with actions, 1 without"),
        ({"video_only_per_task": 3}, "plate-slide", "3 episodes with actions, 1 without"),
        ({"image_size": 64}, "features.observation.images.corner2.shape", "32, 32"),
    ],
)
def test_too_little_is_named(workspace: Path, changes: dict[str, int], key: str, found: str) -> None:
    with pytest.raises(BadInput, match=found) as error:
        open_recorded(parameters(**changes).demos, load_simulator("metaworld"))
    assert error.value.key == key


def test_other_names_rates_and_pictures_are_refused(workspace: Path) -> None:
    path = FOLDER / "robot/meta/info.json"
    whole = read_json(path)
    changes = {
        "fps": {"fps": 20},
        "robot_type": {"robot_type": "panda"},
        "world2act.image_convention": {"world2act": whole["world2act"] | {"image_convention": "upside down"}},
        "features.action.names": {
            "features": whole["features"] | {"action": whole["features"]["action"] | {"names": ["a", "b", "c", "d"]}}
        },
    }
    for key, change in changes.items():
        write_json(path, whole | change)
        with pytest.raises(BadInput) as error:
            open_recorded(parameters().demos, load_simulator("metaworld"))
        assert error.value.key == key


def test_data_of_unknown_lag_are_refused(workspace: Path) -> None:
    write_upload(FOLDER / "raw", [replace(each) for each in episodes(0, 1, 2)])
    (workspace / "out").mkdir()
    with pytest.raises(BadInput, match="world2act import"):
        make_demonstrations(params(recorded=["raw", "camera"]).demos, 0, 2, workspace / "out")
