"""Importers on files that other software wrote, against readers that share no code with them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.foreign import unpacked
from world2act.core.storage import read_parquet, sha256
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.action_lag import response_onset
from world2act.formats.importers import folder as folder_format
from world2act.formats.importers.run import import_dataset
from world2act.sims.robocasa import EMBODIMENT

MILK = "libero_object/pick_up_the_milk_and_place_it_in_the_basket"
BOWL = "libero_spatial/pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"


def onset(dataset: EpisodeDataset) -> int:
    episodes = [dataset.columns(i, ["action", "observation.state"]) for i in range(len(dataset))]
    names = dataset.features["observation.state"]["names"]
    place = [names.index(f"ee_{axis}_m") for axis in "xyz"]
    moving = [each["action"][:, :3] for each in episodes]
    return response_onset(moving, [each["observation.state"][:, place] for each in episodes])[0]


def test_libero(tmp_path: Path) -> None:
    """Frame t stands before action t, the right way up, and tasks of two suites do not meet."""
    source = unpacked("libero", tmp_path)
    done = import_dataset(str(source), tmp_path / "set")
    assert (done.format, done.episodes, done.lag.measured, done.lag.declared) == ("libero", 4, 1, 1)
    dataset = EpisodeDataset.open(tmp_path / "set")
    assert [episode.task for episode in dataset.episodes] == [MILK, MILK, BOWL, BOWL]
    assert dataset.episodes[0].instruction == "pick the milk and place it in the basket"
    assert [episode.seed for episode in dataset.episodes] == [-1, -2, -3, -4]
    assert dataset.fps == 20 and dataset.info["robot_type"] == "panda" and onset(dataset) == 0
    with h5py.File(source / f"{MILK}_demo.hdf5") as file:
        demo = file["data/demo_1"]
        read = dataset.episode(1)
        turned = demo["obs/agentview_rgb"][:-1][:, ::-1, ::-1]  # an observation stored at j was made after action j
        np.testing.assert_array_equal(read["observation.images.agentview"], turned)
        np.testing.assert_array_equal(read["action"], demo["actions"][1:].astype(np.float32))
        state = np.hstack([demo["obs/ee_pos"], demo["obs/ee_ori"], demo["obs/gripper_states"]])[:-1]
        np.testing.assert_array_equal(read["observation.state"], state.astype(np.float32))
    ours = dataset.info["world2act"]
    assert ours["alignment"]["measured_lag"] == ours["alignment"]["declared_lag"] == 1
    assert ours["alignment"]["explained"] > 0.9 and ours["alignment"]["episodes"] == 4
    assert ours["image_convention"] == "rotated by 180 degrees from robosuite's (OpenGL) picture"
    assert {file["path"]: file["sha256"] for file in ours["source"]["files"]} == {
        name: sha256(source / name) for name in (f"{MILK}_demo.hdf5", f"{BOWL}_demo.hdf5")
    }


def test_libero_orientation_is_read_from_the_file(tmp_path: Path) -> None:
    """The same scene, written by a robosuite whose macro says opencv, ends in the same picture."""
    source = unpacked("libero", tmp_path)
    import_dataset(str(source / "libero_object"), tmp_path / "opengl")
    with h5py.File(source / f"{MILK}_demo.hdf5", "a") as file:
        file["data"].attrs["macros_image_convention"] = "opencv"
        for demo in file["data"].values():
            for name in ("agentview_rgb", "eye_in_hand_rgb"):
                demo[f"obs/{name}"][...] = demo[f"obs/{name}"][()][:, ::-1]
    import_dataset(str(source / "libero_object"), tmp_path / "opencv")
    one, other = (EpisodeDataset.open(tmp_path / name) for name in ("opengl", "opencv"))
    for camera in ("agentview", "eye_in_hand"):
        np.testing.assert_array_equal(one.frames(0, camera), other.frames(0, camera))
    assert one.episodes[0].task == MILK


def test_robomimic_layout_with_robocasas_actions(tmp_path: Path) -> None:
    source = unpacked("robomimic", tmp_path)
    done = import_dataset(str(source / "demo_im16.hdf5"), tmp_path / "set")
    assert (done.format, done.episodes, done.lag.measured) == ("robocasa", 3, 0)
    dataset = EpisodeDataset.open(tmp_path / "set")
    assert {(each.task, each.instruction) for each in dataset.episodes} == {("Lift", "lift the red cube")}
    assert dataset.info["robot_type"] == "panda_mobile" and onset(dataset) == 0
    for feature, names in (("action", EMBODIMENT.action_names), ("observation.state", EMBODIMENT.proprio_names)):
        assert tuple(dataset.features[feature]["names"]) == names, "as its simulator has them, which takes recordings"
    assert dataset.cameras == ["agentview", "robot0_eye_in_hand"]
    assert dataset.features["observation.state"]["shape"] == [16] and dataset.features["action"]["shape"] == [12]
    with h5py.File(source / "demo_im16.hdf5") as file:
        demo, read = file["data/demo_2"], dataset.episode(1)
        np.testing.assert_array_equal(read["observation.images.agentview"], demo["obs/agentview_image"])
        np.testing.assert_array_equal(read["action"], demo["actions"][()].astype(np.float32))
        names = ("base_pos", "base_quat", "base_to_eef_pos", "base_to_eef_quat", "gripper_qpos")
        state = np.hstack([demo[f"obs/robot0_{name}"] for name in names]).astype(np.float32)
        np.testing.assert_array_equal(read["observation.state"], state)


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_lerobot_images_keep_every_number_and_pixel(tmp_path: Path, version: str) -> None:
    source = unpacked(f"lerobot_{version}", tmp_path) / "images"
    done = import_dataset(str(source), tmp_path / "set")
    assert (done.episodes, done.frames, done.lag.measured) == (3, 80, 0) and done.left_out == []
    dataset = EpisodeDataset.open(tmp_path / "set")
    assert [each.instruction for each in dataset.episodes] == ["push the block", "lift the block", "push the block"]
    names = ("observation.state", "action", "next.reward", "next.done")
    ours = {name: np.concatenate([dataset.columns(i, [name])[name] for i in range(3)]) for name in names}
    frames = np.concatenate([dataset.frames(i, "front") for i in range(3)])
    files = sorted((source / "data").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    for name in names:
        np.testing.assert_array_equal(ours[name], np.array([row[name] for row in rows]).reshape(len(rows), -1))
    assert ours["next.done"].dtype == bool and ours["next.done"].sum() == 3
    pictures = [np.asarray(Image.open(io.BytesIO(row["observation.images.front"]["bytes"]))) for row in rows]
    np.testing.assert_array_equal(frames, pictures)


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_lerobot_videos_frame_by_frame(tmp_path: Path, version: str) -> None:
    """Frames are those that LeRobot's own reader finds. Each also tells its number by its green, whatever AV1 made
    of it."""
    source = unpacked(f"lerobot_{version}", tmp_path)
    import_dataset(str(source / "videos"), tmp_path / "set")
    dataset = EpisodeDataset.open(tmp_path / "set")
    frames = np.concatenate([dataset.frames(i, "front") for i in range(3)])
    theirs = np.load(source / "pixels.npz")
    np.testing.assert_array_equal(frames[theirs["which"]], theirs["frames"])
    steps = np.concatenate([np.arange(length) for length in dataset.lengths])
    background = np.median(frames[..., 1].reshape(len(frames), -1), axis=1)
    np.testing.assert_array_equal(np.round(background / 8), steps)


def write_folder(root: Path, episodes: int = 2, length: int = 16, fps: int = 20) -> Path:
    """Episodes as the docstring of the format describes them: the first has pictures and a csv, the others a video."""
    rng = np.random.default_rng(0)
    for index in range(episodes):
        folder = root / f"{index:03d}"
        folder.mkdir(parents=True)
        manifest = {"task": "lift", "instruction": "lift it", "fps": fps, "robot": "my_arm"}
        (folder / "episode.json").write_text(json.dumps(manifest))
        action = rng.uniform(-1, 1, (length, 3))
        state = np.vstack([np.zeros(3), action.cumsum(0)[:-1]]) * 0.02
        names = [f"action.delta_{axis}" for axis in "xyz"] + [f"observation.state.ee_{axis}_m" for axis in "xyz"]
        table = pyarrow.table(dict(zip(names, np.hstack([action, state]).T, strict=True)))
        frames = rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)
        frames[:] = np.linspace(0, 240, length).astype(np.uint8)[:, None, None, None]
        frames[:, :4, :4] = 255
        if index == 0:
            pyarrow.csv.write_csv(table, folder / "steps.csv")
            (folder / "images/top").mkdir(parents=True)
            for i, frame in enumerate(frames):
                Image.fromarray(frame).save(folder / f"images/top/{i:06d}.png")
        else:
            pq.write_table(table, folder / "steps.parquet")
            (folder / "images").mkdir()
            with av.open(str(folder / "images/top.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=fps, options={"crf": "0"})
                stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv444p"
                for frame in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
                container.mux(stream.encode())
    return root


def test_a_folder_of_our_own(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "mine", episodes=3, length=30)
    done = import_dataset(str(source), tmp_path / "set")
    assert (done.format, done.episodes, done.lag.measured) == ("folder", 3, 0)
    dataset = EpisodeDataset.open(tmp_path / "set")
    assert dataset.info["robot_type"] == "my_arm" and dataset.episodes[0].task == "lift"
    table = pyarrow.csv.read_csv(source / "000/steps.csv")
    np.testing.assert_array_equal(
        dataset.columns(0, ["action"])["action"][:, 1], table["action.delta_y"].to_numpy().astype(np.float32)
    )
    assert dataset.frames(0, "top")[:, 8, 8, 0].tolist() == np.linspace(0, 240, 30).astype(int).tolist()
    video = dataset.frames(1, "top")[:, 8, 8, 0].astype(int)
    np.testing.assert_allclose(video, np.linspace(0, 240, 30), atol=4)
    assert "episode.json" in folder_format.__doc__ and "steps.parquet" in folder_format.__doc__


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = unpacked("lerobot_v30", tmp_path) / "videos"
    for name in ("a", "b"):
        import_dataset(str(source), tmp_path / name)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_elements_are_renamed_so_that_the_lag_can_be_measured(tmp_path: Path) -> None:
    source = unpacked("lerobot_v30", tmp_path) / "images"
    info = json.loads((source / "meta/info.json").read_text())
    info["features"]["action"]["names"] = {"motors": ["x", "y", "z", "grip"]}
    (source / "meta/info.json").write_text(json.dumps(info))
    names = {"x": "delta_x", "y": "delta_y", "z": "delta_z"}
    assert import_dataset(str(source), tmp_path / "set", rename=names).lag.measured == 0
    assert EpisodeDataset.open(tmp_path / "set").features["action"]["names"] == [*names.values(), "grip"]
    done = import_dataset(str(source), tmp_path / "stated", lag=0)
    assert done.lag.measured is None and done.lag.declared == 0
    recorded = EpisodeDataset.open(tmp_path / "stated").info["world2act"]["alignment"]
    assert recorded == {"declared_lag": 0, "measured_lag": None, "explained": None, "episodes": 0}


def test_bad_episodes_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    source = unpacked("libero", tmp_path)
    with h5py.File(source / f"{MILK}_demo.hdf5", "a") as file:
        file["data/demo_0/obs/ee_states"][7, 2] = np.nan
    (source / "libero_spatial/broken_demo.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    done = import_dataset(str(source), tmp_path / "set", set_aside_share=0.5)
    assert done.episodes == 3
    rows = read_parquet(tmp_path / "set/set_aside.parquet").to_pylist()
    assert [row["name"] for row in rows] == [f"{MILK}_demo.hdf5:demo_0", "libero_spatial/broken_demo.hdf5"]
    assert "not a finite number, first in row 7" in rows[0]["reason"] and "HDF5" in rows[1]["reason"]
    assert len(EpisodeDataset.open(tmp_path / "set")) == 3
