"""The LeRobot v3 writer and reader."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from world2act.core.errors import BadInput
from world2act.core.storage import sha256
from world2act.data import lerobot_v3_writer
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.statistics import array_statistics

LENGTHS = (9, 6, 7)


def episodes() -> list[Episode]:
    """Three episodes; two tasks share an instruction, as scenes of LIBERO do."""
    rng = np.random.default_rng(0)
    made = []
    for i, length in enumerate(LENGTHS):
        frames = rng.integers(0, 256, (length, 8, 10, 3), dtype=np.uint8)
        arrays = {name: rng.normal(size=(length, 2)).astype(np.float32) for name in ("observation.state", "action")}
        made.append(Episode(f"scene{i}_lift", "lift the cube", 50 + i, {"front": frames}, arrays))
    return made


def write(path: Path) -> Path:
    features = {
        "observation.state": array_feature(["x_m", "gripper_opening_m"]),
        "observation.images.front": image_feature(8, 10),
        "action": array_feature(["dx", "grip"]),
    }
    path.mkdir()
    with DatasetWriter(path, features=features, fps=80, robot_type="arm", extra={"simulator": "none"}) as writer:
        for episode in episodes():
            writer.add(encode(episode))
        writer.set_splits({"train": range(2), "heldout": range(2, 3)})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "set")


def test_what_goes_in_comes_out(path: Path) -> None:
    dataset = EpisodeDataset.open(path)
    assert dataset.lengths == list(LENGTHS) and dataset.fps == 80 and len(dataset) == 3
    assert dataset.splits == {"train": range(2), "heldout": range(2, 3)}
    assert [episode.subset for episode in dataset.episodes] == ["train", "train", "heldout"]
    for i, episode in enumerate(episodes()):
        read = dataset.episode(i)
        np.testing.assert_array_equal(read["observation.images.front"], episode.images["front"])
        for name, values in episode.arrays.items():
            np.testing.assert_array_equal(read[name], values)
        np.testing.assert_array_equal(read["frame_index"], np.arange(LENGTHS[i]))
        np.testing.assert_array_equal(read["index"], sum(LENGTHS[:i]) + np.arange(LENGTHS[i]))
        np.testing.assert_allclose(read["timestamp"], np.arange(LENGTHS[i]) / 80, rtol=1e-6)
        assert dataset.episodes[i].task == episode.task and dataset.episodes[i].seed == episode.seed
    np.testing.assert_array_equal(dataset.frames(1, "front", [5, 0]), episodes()[1].images["front"][[5, 0]])


def test_tasks_with_one_instruction_do_not_collide(path: Path) -> None:
    dataset = EpisodeDataset.open(path)
    assert {episode.instruction for episode in dataset.episodes} == {"lift the cube"}
    assert len({episode.task for episode in dataset.episodes}) == 3


def test_layout_is_lerobots(path: Path) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == sum(LENGTHS) and info["video_path"] is None
    assert info["splits"] == {"train": "0:2", "heldout": "2:3"}
    tasks = pd.read_parquet(path / "meta/tasks.parquet")
    assert tasks.index.name == "task" and tasks.loc["lift the cube", "task_index"] == 0
    data = pq.ParquetFile(path / "data/chunk-000/file-000.parquet")
    assert [data.metadata.row_group(i).num_rows for i in range(data.num_row_groups)] == list(LENGTHS)
    assert set(data.schema_arrow.names) == set(info["features"])
    assert str(data.schema_arrow.field("action").type).startswith("fixed_size_list<")
    png = data.read_row_group(0, columns=["observation.images.front"]).column(0)[0].as_py()["bytes"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), episodes()[0].images["front"][0])
    rows = pd.read_parquet(path / "meta/episodes/chunk-000/file-000.parquet")
    assert rows["dataset_from_index"].tolist() == [0, 9, 15] and rows["dataset_to_index"].tolist() == [9, 15, 22]


def test_statistics(path: Path) -> None:
    statistics = json.loads((path / "meta/stats.json").read_text())
    states = np.concatenate([episode.arrays["observation.state"] for episode in episodes()]).astype(np.float64)
    frames = np.concatenate([episode.images["front"] for episode in episodes()]) / 255
    state, image = statistics["observation.state"], statistics["observation.images.front"]
    for name, measure in {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}.items():
        np.testing.assert_allclose(state[name], measure(states, axis=0), rtol=1e-9)
        np.testing.assert_allclose(image[name], measure(frames, axis=(0, 1, 2)).reshape(3, 1, 1), rtol=1e-9)
    np.testing.assert_allclose(state["q90"], np.quantile(states, 0.9, axis=0))
    np.testing.assert_allclose(image["q50"], np.quantile(frames, 0.5, axis=(0, 1, 2)).reshape(3, 1, 1), atol=1 / 255)
    assert state["count"] == [sum(LENGTHS)]
    row = pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
    np.testing.assert_allclose(row["stats/action/mean"], episodes()[1].arrays["action"].astype(np.float64).mean(0))


def test_statistics_are_exact_and_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back a few rows at a time, of features of one element and of several types, as if they were all there."""
    monkeypatch.setattr(lerobot_v3_writer, "_ROWS_PER_READ", 4)
    rng = np.random.default_rng(0)
    arrays = {
        "action": rng.normal(size=(30, 2)).astype(np.float32) * np.float32([1, 1e6]),
        "phase": rng.integers(-2, 3, (30, 1)).astype(np.float32),
        "next.done": rng.integers(0, 2, (30, 1)).astype(bool),
        "count": rng.integers(0, 9, (30, 1)),
    }
    features = {
        name: array_feature([f"{name}_{i}" for i in range(values.shape[1])], str(values.dtype))
        for name, values in arrays.items()
    }
    with DatasetWriter(tmp_path, features=features, fps=10, robot_type="arm", extra={}) as writer:
        for part in (slice(0, 7), slice(7, 21), slice(21, 30)):
            writer.add(encode(Episode("a", "a", 0, {}, {name: values[part] for name, values in arrays.items()})))
    found, dataset = json.loads((tmp_path / "meta/stats.json").read_text()), EpisodeDataset.open(tmp_path)
    for name, values in arrays.items():
        read = np.concatenate([dataset.columns(i, [name])[name] for i in range(3)])
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)
        for key, expected in array_statistics(values).items():
            np.testing.assert_allclose(found[name][key], expected, rtol=1e-9, err_msg=f"{name}, {key}")


def test_the_episodes_table_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_v3_writer, "_EPISODES_PER_GROUP", 2)
    path = write(tmp_path / "set")
    table = pq.ParquetFile(path / "meta/episodes/chunk-000/file-000.parquet")
    assert [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)] == [2, 1]
    assert EpisodeDataset.open(path).lengths == list(LENGTHS)


def test_same_episodes_same_bytes(tmp_path: Path) -> None:
    assert sha256(write(tmp_path / "a")) == sha256(write(tmp_path / "b"))


def test_a_new_file_once_the_old_one_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_v3_writer, "_DATA_MB", 0)
    path = write(tmp_path / "set")
    assert len(list((path / "data").rglob("*.parquet"))) == 3
    dataset = EpisodeDataset.open(path)
    for i, episode in enumerate(episodes()):
        np.testing.assert_array_equal(dataset.episode(i)["action"], episode.arrays["action"])


@pytest.mark.parametrize(
    "name", ["data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/info.json"]
)
@pytest.mark.parametrize("fault", ["truncated", "missing"])
def test_damaged_files_are_named(path: Path, name: str, fault: str) -> None:
    file = path / name
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadInput) as error:
        EpisodeDataset.open(path).episode(0)
    assert Path(name).parts[0] in str(error.value) and "remedy" in str(error.value)


def test_damage_inside_a_row_group(path: Path) -> None:
    file = path / "data/chunk-000/file-000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 4 : len(content) // 3] = bytes(len(content) // 3 - len(content) // 4)
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"file-000\.parquet"):
        dataset = EpisodeDataset.open(path)
        for i in range(3):
            dataset.episode(i)


def test_no_episode_and_no_such_feature(path: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with (
        pytest.raises(BadInput, match="no episode"),
        DatasetWriter(empty, features={}, fps=80, robot_type="arm", extra={}),
    ):
        pass
    with pytest.raises(BadInput, match=r"features\.reward"):
        EpisodeDataset.open(path).columns(0, ["reward"])


def test_features_of_different_lengths_are_refused() -> None:
    episode = episodes()[0]
    episode.arrays["action"] = episode.arrays["action"][:-1]
    with pytest.raises(ValueError, match="different lengths"):
        encode(episode)
