"""Exporters: what leaves can be read by plain pyarrow and PIL, is the same each time, and comes back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.foreign import unpacked
from world2act.core.errors import BadInput
from world2act.core.storage import sha256, write_parquet
from world2act.data.features import array_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.exporters.modality import modality
from world2act.formats.exporters.run import export_dataset
from world2act.formats.importers.run import import_dataset

SKILLS = pa.schema(
    [
        ("dataset", pa.string()),
        ("episode_index", pa.int64()),
        ("instruction", pa.string()),
        ("start", pa.int64()),
        ("prompt", pa.string()),
    ]
)


@pytest.fixture(scope="module")
def libero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of ours, imported from LIBERO's files."""
    folder = tmp_path_factory.mktemp("libero")
    import_dataset(str(unpacked("libero", folder)), folder / "set")
    return folder / "set"


@pytest.fixture
def skills(libero: Path, tmp_path: Path) -> Path:
    """Two skills an episode; episode 3 was discarded."""
    rows = [
        {"dataset": "labelled", "episode_index": i, "instruction": e.instruction, "start": start, "prompt": prompt}
        for i, e in enumerate(EpisodeDataset.open(libero).episodes[:3])
        for start, prompt in ((1, "reach for it"), (13, "lift it"))
    ]
    write_parquet(tmp_path / "skills/skills.parquet", rows, SKILLS)
    return tmp_path / "skills"


def test_from_lerobot_and_back_every_number_and_pixel(tmp_path: Path) -> None:
    """LeRobot's own v3.0 file → ours → exported v3.0, both read without our reader."""
    source = unpacked("lerobot_v30", tmp_path) / "images"
    import_dataset(str(source), tmp_path / "set")
    export_dataset(tmp_path / "set", tmp_path / "out", "lerobot-v3.0")
    theirs, ours = (
        pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pylist() for folder in (source, tmp_path / "out")
    )
    assert len(theirs) == len(ours) == 80
    for before, after in zip(theirs, ours, strict=True):
        picture = "observation.images.front"
        one, other = (np.asarray(Image.open(io.BytesIO(row.pop(picture)["bytes"]))) for row in (before, after))
        np.testing.assert_array_equal(one, other)
        assert before == after
    episodes = [
        pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet") for folder in (source, tmp_path / "out")
    ]
    for column in ("tasks", "length", "dataset_from_index", "dataset_to_index"):
        assert episodes[0][column].to_pylist() == episodes[1][column].to_pylist()
    texts = [pq.read_table(folder / "meta/tasks.parquet").columns for folder in (source, tmp_path / "out")]
    assert [column.to_pylist() for column in texts[0]] == [column.to_pylist() for column in texts[1]]
    infos = [json.loads((folder / "meta/info.json").read_text()) for folder in (source, tmp_path / "out")]
    features = [info["features"] for info in infos]
    assert features[0].keys() == features[1].keys()
    assert all(features[0][name]["shape"] == features[1][name]["shape"] for name in features[0])


@pytest.mark.parametrize("format_", ["lerobot-v3.0", "lerobot-v2.1"])
def test_the_same_data_give_the_same_bytes(libero: Path, skills: Path, tmp_path: Path, format_: str) -> None:
    for name in ("a", "b"):
        export_dataset(libero, tmp_path / name, format_, skills=skills)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_exactly_one_subtask_is_active_at_each_frame(libero: Path, skills: Path, tmp_path: Path) -> None:
    done = export_dataset(libero, tmp_path / "out", "lerobot-v3.0", skills=skills)
    assert (done.episodes, done.prompted) == (4, 3)
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert str(table.schema.field("language_persistent").type.value_type.field("timestamp").type) == "float"
    for row in table.to_pylist():
        said = row["language_persistent"]
        if row["episode_index"] == 3:
            assert said == []
            continue
        assert [each["timestamp"] for each in said] == pytest.approx([0, 13 / 20])
        assert all((each["role"], each["style"], each["camera"]) == ("assistant", "subtask", None) for each in said)
        active = [each for each in said if each["timestamp"] <= row["timestamp"]][-1]
        assert active["content"] == ("reach for it" if row["frame_index"] < 13 else "lift it")
    again = EpisodeDataset.open(tmp_path / "out")
    assert len(again.encoded(0).language) == 2
    export_dataset(tmp_path / "out", tmp_path / "again", "lerobot-v3.0", skills=skills)
    assert sha256(tmp_path / "out") == sha256(tmp_path / "again")


def test_v21_is_what_gr00t_reads(libero: Path, skills: Path, tmp_path: Path) -> None:
    """The keys of GR00T's configuration `libero_sim`, and its way from a row to a text, a slice and a frame."""
    out = tmp_path / "out"
    export_dataset(libero, out, "lerobot-v2.1", skills=skills)
    info, found, statistics = (
        json.loads((out / f"meta/{name}.json").read_text()) for name in ("info", "modality", "stats")
    )
    tasks, episodes = (
        [json.loads(line) for line in (out / f"meta/{name}.jsonl").read_text().splitlines()]
        for name in ("tasks", "episodes")
    )
    texts = {task["task_index"]: task["task"] for task in tasks}
    keys = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    assert list(found["state"]) == sorted(keys) and list(found["action"]) == sorted(keys)
    assert found["state"]["gripper"] == {"start": 6, "end": 8} and found["action"]["gripper"] == {"start": 6, "end": 7}
    assert found["video"]["wrist_image"] == {"original_key": "observation.images.eye_in_hand"}
    assert info["codebase_version"] == "v2.1" and info["total_videos"] == 8
    ours = EpisodeDataset.open(libero)
    for index, episode in enumerate(episodes):
        chunk = index // info["chunks_size"]
        rows = pq.read_table(out / info["data_path"].format(episode_chunk=chunk, episode_index=index))
        arrays = ours.columns(index, ["action", "observation.state"])
        for name, values in arrays.items():
            np.testing.assert_array_equal(np.array(rows[name].to_pylist(), np.float32), values)
        for annotation in ("human.action.task_description", "human.task_description"):
            assert annotation in found["annotation"]
            assert {texts[i] for i in rows[f"annotation.{annotation}"].to_pylist()} == {episode["tasks"][0]}
        said = [texts[i] for i in rows["annotation.human.action.subtask"].to_pylist()]
        if index < 3:
            assert said == ["reach for it"] * 13 + ["lift it"] * (len(rows) - 13)
        for part in found["video"].values():
            camera = part["original_key"].removeprefix("observation.images.")
            path = info["video_path"].format(episode_chunk=chunk, video_key=part["original_key"], episode_index=index)
            with av.open(str(out / path)) as container:
                frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
                assert container.streams.video[0].average_rate == info["fps"]
            assert len(frames) == episode["length"]
            assert np.abs(frames.astype(int) - ours.frames(index, camera)).mean() < 12
    exact = np.concatenate([ours.columns(i, ["action"])["action"] for i in range(4)]).astype(np.float64)
    np.testing.assert_allclose(statistics["action"]["q99"], np.quantile(exact, 0.99, axis=0))
    assert sorted(statistics["action"]) == ["max", "mean", "min", "q01", "q99", "std"]


def test_v21_comes_back(libero: Path, tmp_path: Path) -> None:
    export_dataset(libero, tmp_path / "out", "lerobot-v2.1")
    import_dataset(str(tmp_path / "out"), tmp_path / "back")
    before, after = EpisodeDataset.open(libero), EpisodeDataset.open(tmp_path / "back")
    assert [e.task for e in after.episodes] == [e.task for e in before.episodes]
    np.testing.assert_array_equal(after.columns(2, ["action"])["action"], before.columns(2, ["action"])["action"])
    assert after.info["world2act"]["image_convention"] == before.info["world2act"]["image_convention"]


def test_elements_that_gr00t_does_not_name_keep_their_names() -> None:
    features = {"observation.state": array_feature(["ee_x_m", "elbow", "gripper_left_m", "wrist", "gripper_right_m"])}
    assert modality(features, ["top"], [])["state"] == {
        "x": {"start": 0, "end": 1},
        "elbow": {"start": 1, "end": 2},
        "gripper": {"start": 2, "end": 3},
        "wrist": {"start": 3, "end": 4},
        "gripper_right_m": {"start": 4, "end": 5},
    }


def test_bad_exports_are_refused(libero: Path, skills: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"one of lerobot-v2\.1, lerobot-v3\.0"):
        export_dataset(libero, tmp_path / "out", "rlds")
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match="there"):
        export_dataset(libero, tmp_path / "there", "lerobot-v3.0")
    rows = pq.read_table(skills / "skills.parquet").to_pylist()
    write_parquet(skills / "skills.parquet", [rows[0] | {"instruction": "another"}], SKILLS)
    with pytest.raises(BadInput, match="another"):
        export_dataset(libero, tmp_path / "out", "lerobot-v3.0", skills=skills)
    assert not (tmp_path / "out").exists()
