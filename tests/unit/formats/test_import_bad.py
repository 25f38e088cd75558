"""Sources that cannot be imported: one message that says where, what was found and what to do; nothing is left."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.foreign import unpacked
from tests.pipeline.test_cli import world2act
from tests.unit.formats.test_import import MILK, write_folder
from world2act.core.errors import BadInput
from world2act.core.storage import read_parquet
from world2act.formats.importers.run import import_dataset


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def hdf5(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        with h5py.File(root / f"{MILK}_demo.hdf5", "a") as file:
            change(file)

    return apply


def drop(name: str) -> Callable[[Path], None]:
    return hdf5(lambda file: file["data"].attrs.__delitem__(name))


def other_rate(file: h5py.File) -> None:
    arguments = json.loads(file["data"].attrs["env_args"])
    arguments["env_kwargs"]["control_freq"] = 10
    file["data"].attrs["env_args"] = json.dumps(arguments)


def unknown_layout(file: h5py.File) -> None:
    for name in ("macros_image_convention", "bddl_file_name"):
        del file["data"].attrs[name]


@pytest.mark.parametrize(
    ("change", "options", "found"),
    [
        (lambda root: None, {"format_": "rlds"}, "rlds(.|\n)*folder, lerobot, libero, robocasa"),
        (drop("macros_image_convention"), {}, "macros_image_convention"),
        (hdf5(lambda f: f["data"].attrs.__setitem__("macros_image_convention", "vulkan")), {}, "vulkan"),
        (drop("env_args"), {}, "env_args"),
        (hdf5(other_rate), {}, r"fps(.|\n)*20(.|\n)*10, as in the first file"),
        (hdf5(unknown_layout), {}, r"attributes(.|\n)*LIBERO's HDF5 files"),
        (lambda root: None, {"lag": 0}, "1 measured(.|\n)*0 declared(.|\n)*--lag 1"),
        (lambda root: None, {"rename": {"delta_q": "delta_x"}}, "--rename delta_q=delta_x"),
        (lambda root: None, {"rename": {"delta_x": "delta_y"}}, "distinct names"),
        (lambda root: None, {"rename": {"delta_x": "joint"}}, "no axes in common(.|\n)*--lag N"),
        (lambda root: shutil.rmtree(root / "libero_object") or shutil.rmtree(root / "libero_spatial"), {}, "no file"),
    ],
)
def test_libero_that_cannot_be_imported(
    tmp_path: Path, change: Callable[[Path], None], options: dict[str, Any], found: str
) -> None:
    source = unpacked("libero", tmp_path)
    change(source)
    with pytest.raises(BadInput, match=found):
        import_dataset(str(source), tmp_path / "set", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["libero"]


def test_a_wrong_lag_is_found_early(tmp_path: Path) -> None:
    """After twenty episodes, not at the end of them all."""
    source = unpacked("libero", tmp_path) / "libero_object"
    with h5py.File(source / Path(f"{MILK}_demo.hdf5").name, "a") as file:
        for index in range(2, 60):
            file.copy(f"data/demo_{index % 2}", file["data"], f"demo_{index}")
    read: list[int] = []
    with pytest.raises(BadInput, match="1 measured, over 20 episodes"):
        import_dataset(str(source), tmp_path / "set", lag=0, progress=lambda done, total: read.append(done))
    assert read[-1] == 20


def cut(name: str, keep: float = 0.5) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return apply


def replaced(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Another dataset in demo_0 instead of one that is there."""

    def change(file: h5py.File) -> None:
        values = file[f"data/demo_0/{name}"][()]
        del file[f"data/demo_0/{name}"]
        file[f"data/demo_0/{name}"] = make(values)

    return hdf5(change)


def external(root: Path) -> None:
    """A dataset whose bytes lie in another file, which an importer must not read."""
    (root / "secret").write_bytes(bytes(8 * 7 * 27))
    with h5py.File(root / f"{MILK}_demo.hdf5", "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0"].create_dataset(
            "actions", (27, 7), np.float64, external=[(str(root / "secret"), 0, 8 * 7 * 27)]
        )


def linked(root: Path) -> None:
    with h5py.File(root / f"{MILK}_demo.hdf5", "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = h5py.ExternalLink("elsewhere.hdf5", "/actions")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hdf5(lambda f: f["data/demo_0/obs"].__delitem__("eye_in_hand_rgb")), "no eye_in_hand_rgb"),
        (hdf5(lambda f: f["data/demo_0"].__delitem__("actions")), "no actions"),
        (replaced("actions", lambda a: a[:, :6]), r"actions: float64 of shape \(27, 6\) where \(frames, 7\)"),
        (replaced("actions", lambda a: a[:-3]), "different lengths"),
        (replaced("actions", lambda a: np.where(a > 2, a, np.inf)), "action: not a finite number, first in row 0"),
        (replaced("obs/agentview_rgb", lambda a: a[..., 0]), "agentview_rgb: uint8 of shape"),
        (replaced("obs/agentview_rgb", lambda a: a.astype(np.float32)), "agentview_rgb: float32"),
        (
            replaced("obs/agentview_rgb", lambda a: np.concatenate([a[:9], 0 * a[9:]])),
            "18 blank frames, the first is 9",
        ),
        (replaced("obs/agentview_rgb", lambda a: a[[3] * len(a)]), "agentview: the picture never changes"),
        (external, "the content of actions is in another file"),
        (linked, "actions is a link to another place"),
        (cut(f"{MILK}_demo.hdf5"), "not an undamaged HDF5 file"),
        (hdf5(lambda f: f.move("data", "date")), "no group `data`"),
    ],
)
def test_a_bad_demonstration_is_set_aside(tmp_path: Path, change: Callable[[Path], None], reason: str) -> None:
    source = unpacked("libero", tmp_path)
    change(source)
    import_dataset(str(source), tmp_path / "set", set_aside_share=0.5)
    (row,) = read_parquet(tmp_path / "set/set_aside.parquet").to_pylist()
    assert row["name"].startswith(f"{MILK}_demo.hdf5")
    assert re.search(reason, row["reason"])
    with pytest.raises(BadInput, match=r"unusable(.|\n)*at most 5%"):
        import_dataset(str(source), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


def test_too_short_for_a_latent(tmp_path: Path) -> None:
    source = unpacked("libero", tmp_path)
    with h5py.File(source / f"{MILK}_demo.hdf5", "a") as file:
        demo = file["data/demo_0"]
        for name in ("actions", "obs/ee_states", "obs/gripper_states", "obs/agentview_rgb", "obs/eye_in_hand_rgb"):
            values = demo[name][:5]
            del demo[name]
            demo[name] = values
    done = import_dataset(str(source), tmp_path / "set", set_aside_share=0.5)
    assert "4 frames (without those that lag), fewer than 5" in done.set_aside[0].reason


def test_a_wrong_action_width_everywhere_leaves_nothing(tmp_path: Path) -> None:
    source = unpacked("robomimic", tmp_path)
    with h5py.File(source / "demo_im16.hdf5", "a") as file:
        for demo in file["data"].values():
            values = demo["actions"][:, :7]
            del demo["actions"]
            demo["actions"] = values
    with pytest.raises(BadInput, match=r"actions of shape \(32, 7\)"):
        import_dataset(str(source), tmp_path / "set")
    with pytest.raises(BadInput, match=r"3 unusable episodes and 0 usable(.|\n)*\(frames, 12\)"):
        import_dataset(str(source), tmp_path / "set", format_="robocasa", set_aside_share=1)


def more_frames(root: Path) -> None:
    """The table says that episode 2 has frames that its video does not show."""
    (path,) = (root / "videos").rglob("*.mp4")
    frames = []
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in frames[:70]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def lost_rows(root: Path) -> None:
    (path,) = (root / "data").rglob("*.parquet")
    pq.write_table(pq.read_table(path).slice(0, 75), path)


def nulls(root: Path) -> None:
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    values = table["next.reward"].to_pylist()
    values[-1] = None
    place = table.column_names.index("next.reward")
    pq.write_table(table.set_column(place, "next.reward", pa.array(values, pa.float32())), path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (more_frames, r"no frame at 3\.500 s, frame 14 of the 24"),
        (lost_rows, "ends before the episode does"),
        (nulls, "next.reward: 1 rows without a value"),
    ],
)
def test_a_bad_lerobot_episode_is_set_aside(tmp_path: Path, change: Callable[[Path], None], reason: str) -> None:
    source = unpacked("lerobot_v30", tmp_path) / "videos"
    change(source)
    done = import_dataset(str(source), tmp_path / "set", set_aside_share=0.5)
    assert done.episodes == 2 and done.set_aside[0].name == "episode 2"
    with pytest.raises(BadInput, match=reason):
        import_dataset(str(source), tmp_path / "strict")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda root: edit_info(root, codebase_version="v2.0"), r"v2\.0(.|\n)*v2\.1(.|\n)*convert"),
        (lambda root: edit_info(root, codebase_version=None), "codebase_version"),
        (lambda root: edit_info(root, data_path="../../{chunk_index}/{file_index}.parquet"), "leaves the source"),
        (lambda root: edit_info(root, data_path="/etc/{chunk_index}{file_index}"), "leaves the source"),
        (lambda root: edit_info(root, data_path="{chunk_index.__class__.__mro__[9]}"), "data_path"),
        (lambda root: edit_info(root, video_path="videos/{video_key}/../../../{file_index}.mp4"), "leaves the source"),
        (lambda root: edit_info(root, fps=None), "fps"),
        (lambda root: edit_info(root, features={"action": 3}), r"features\.action"),
        (lambda root: edit_info(root, robot_type=None), "--embodiment"),
        (lambda root: edit_info(root, total_episodes=9), "3 episodes(.|\n)*9, the total_episodes"),
        (cut("meta/info.json"), "valid JSON"),
        (cut("meta/episodes/chunk-000/file-000.parquet"), "a whole parquet file"),
        (cut("data/chunk-000/file-000.parquet"), "3 unusable episodes and 0"),
    ],
)
def test_lerobot_that_cannot_be_imported(tmp_path: Path, change: Callable[[Path], None], found: str) -> None:
    source = unpacked("lerobot_v30", tmp_path) / "videos"
    change(source)
    with pytest.raises(BadInput, match=found):
        import_dataset(str(source), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_folder_with_a_fault_in_each_episode(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "mine", episodes=1, length=40)
    for index in range(1, 6):
        shutil.copytree(source / "000", source / f"{index:03d}")
    (source / "001/episode.json").write_text("{}")
    (source / "002/steps.csv").unlink()
    (source / "003/images/top/000007.png").unlink()
    (source / "004/images/top/000007.png").write_bytes(b"not an image")
    lines = (source / "005/steps.csv").read_text().splitlines()
    (source / "005/steps.csv").write_text("\n".join([lines[0], lines[1].replace(",", ",x", 1), *lines[2:]]))
    done = import_dataset(str(source), tmp_path / "set", set_aside_share=0.9)
    assert [each.name for each in done.set_aside] == ["001", "002", "003", "004", "005"]
    faults = ["instruction", "neither steps.csv", "000007.png is expected", "not an image", "action: Failed to parse"]
    assert all(fault in each.reason for fault, each in zip(faults, done.set_aside, strict=True)), done.set_aside


def test_episodes_of_two_rates_are_not_one_data_set(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine/a", episodes=1)
    write_folder(tmp_path / "mine/b", episodes=1, fps=30)
    with pytest.raises(BadInput, match=r"fps(.|\n)*30(.|\n)*20, as before"):
        import_dataset(str(tmp_path / "mine"), tmp_path / "set")


def test_the_command_says_it_in_one_message(tmp_path: Path) -> None:
    """Anywhere, without a pipeline; what is there already is not touched."""
    source = unpacked("lerobot_v30", tmp_path) / "images"
    done = world2act(tmp_path, "import", str(source), "set")
    assert done.returncode == 0, done.stderr
    assert "set: 3 episodes, 80 frames, from lerobot v3.0" in done.stdout
    assert "lag 0 measured and removed" in done.stdout
    for arguments, found in (
        (("import", str(source), "set"), "a path that does not exist"),
        (("import", "nowhere", "new"), "nowhere"),
        (("import", "gs://bucket/x", "new"), "s3://BUCKET/PREFIX"),
        (("import", str(source), "new", "--rename", "x"), "OLD=NEW"),
        (("export", "set", "set"), "a path that does not exist"),
        (("export", "set", "new", "--format", "rlds"), "lerobot-v2.1"),
    ):
        failed = world2act(tmp_path, *arguments)
        assert failed.returncode == 2 and found in failed.stderr and "Traceback" not in failed.stderr, failed.stderr
    assert world2act(tmp_path, "export", "set", "out").returncode == 0
    for command in ("import", "export"):
        shown = world2act(tmp_path, command, "--help")
        assert shown.returncode == 0 and "DEST" in shown.stdout and "LeRobot" in shown.stdout
