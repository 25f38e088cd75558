"""Several cameras in one frame: nothing is lost on the way there and back, and what does not fit is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.helpers.recordings import ROOT, params, values
from tests.helpers.repository import make_repository
from world2act.collection.demonstrations import make_demonstrations
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params
from world2act.core.storage import write_parquet
from world2act.core.tables import schema_of
from world2act.data.frame_cache import FrameCache
from world2act.data.latent_cache import open_latents
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.data.tiling import Layout, layout_of, read_frames
from world2act.processes.dvc_command import stage_environment
from world2act.world_model.parts.tokenizer import load_tokenizer

NAMES = ("left", "right", "wrist", "top")
OTHERS = [{"name": name, "position_m": None, "fovy_deg": None, "protocol": None} for name in ("gripperPOV", "corner3")]


def views(count: int, size: tuple[int, int] = (6, 8), frames: int = 5) -> dict[str, np.ndarray]:
    pictures = np.random.default_rng(count).integers(1, 256, (count, frames, *size, 3), np.uint8)
    return dict(zip(NAMES, pictures, strict=False))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_view_comes_back_to_the_byte(count: int) -> None:
    seen = views(count)
    layout = Layout.of(list(seen), (6, 8))
    frame = layout.tile(seen)
    side = 1 if count == 1 else 2
    assert frame.shape == (5, side * 6, side * 8, 3) and layout.frame_size == frame.shape[1:3]
    back = Layout.from_json(layout.to_json()).untile(frame)
    assert list(back) == list(seen)
    for name, view in seen.items():
        np.testing.assert_array_equal(back[name], view)
    empty = frame.sum() - sum(int(view.sum()) for view in seen.values())
    assert empty == 0 and (frame == 0).all(-1).sum() == 5 * 48 * (side**2 - count)


def test_one_camera_is_left_as_it_is() -> None:
    seen = views(1)
    assert Layout.of(["left"], (6, 8)).tile(seen) is seen["left"]


def test_views_stand_row_by_row() -> None:
    frame = Layout.of(NAMES[:3], (1, 1)).tile({name: np.full((1, 1, 3), i + 1) for i, name in enumerate(NAMES[:3])})
    assert frame[..., 0].tolist() == [[1, 2], [3, 0]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="1 to 4 cameras"):
        Layout.of([*NAMES, "fifth"], (6, 8))
    with pytest.raises(BadInput, match="1 to 4 cameras"):
        Layout.of(["left", "left"], (6, 8))
    layout, seen = Layout.of(NAMES[:2], (6, 8)), views(2)
    for wrong in (
        views(1),
        views(3),
        seen | {"right": seen["right"][:, :4]},
        {"left": seen["left"], "up": seen["right"]},
    ):
        with pytest.raises(BadInput, match="views of a frame"):
            layout.tile(wrong)
    with pytest.raises(BadInput, match="size"):
        layout.untile(layout.tile(seen)[:, :11])


@pytest.mark.parametrize(
    ("cameras", "named"),
    [
        ([], "demos.cameras"),
        ([{**OTHERS[0], "name": f"camera {i}"} for i in range(5)], "demos.cameras"),
        ([OTHERS[0], OTHERS[0]], "different names"),
        ([OTHERS[0], {**OTHERS[1], "protocol": "libero-openpi"}], "one protocol"),
    ],
)
def test_cameras_that_do_not_go_together_are_refused(cameras: list[dict[str, object]], named: str) -> None:
    composed = compose("default", ROOT)
    composed["demos"]["cameras"] = cameras
    with pytest.raises(BadInput, match=named):
        parse_params(composed, "a test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of Meta-World under three cameras, of which the main one does not come first by its name."""
    path = tmp_path_factory.mktemp("demos")
    main = values()["demos"]["cameras"]
    make_demonstrations(params(cameras=main + OTHERS).demos, 0, 2, path)
    return path


def test_all_cameras_are_recorded_the_main_one_first(made: Path) -> None:
    dataset = EpisodeDataset.open(made / "video_only")
    assert dataset.cameras == ["corner2", "gripperPOV", "corner3"]
    assert layout_of(dataset) == Layout.of(dataset.cameras, (32, 32))
    frames = read_frames(dataset, 0, range(3, 8))
    assert frames.shape == (5, 64, 64, 3) and (frames[:, 32:, 32:] == 0).all()
    for name, view in layout_of(dataset).untile(frames).items():
        np.testing.assert_array_equal(view, dataset.frames(0, name, range(3, 8)))
        assert view.std() > 10, f"{name} shows nothing"
    assert dataset.pngs(0, "corner3") == dataset.encoded(0).pngs["corner3"]


def test_other_cameras_change_nothing_for_the_main_one(made: Path, tmp_path: Path) -> None:
    make_demonstrations(params().demos, 0, 2, tmp_path)
    alone, among = (EpisodeDataset.open(path / "labelled") for path in (tmp_path, made))
    for index in range(len(alone)):
        assert alone.pngs(index, "corner2") == among.pngs(index, "corner2")
        ours, theirs = (each.columns(index, ["action", "observation.state"]) for each in (alone, among))
        for name, column in ours.items():
            np.testing.assert_array_equal(column, theirs[name])


def test_the_tokenizer_reads_tiled_frames_and_one_cameras_as_before(made: Path, tmp_path: Path) -> None:
    dataset = EpisodeDataset.open(made / "video_only")
    tiled, one = FrameCache.open_tiled(dataset, tmp_path), FrameCache.open(dataset, "corner3", tmp_path)
    np.testing.assert_array_equal(tiled.episode(1), read_frames(dataset, 1))
    np.testing.assert_array_equal(tiled.episode(1)[:, 32:, :32], one.episode(1))


@pytest.mark.slow
def test_the_world_model_sees_every_camera_and_each_can_be_seen_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded by Meta-World, tiled, through the real stages `tokenizer` and `latents`, decoded, untiled."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "artifacts/demos")
    composed = values(cameras=values()["demos"]["cameras"] + OTHERS)
    composed["tokenizer"] |= {"base_dim": 8, "clip_frames": 5}
    composed["tokenizer"]["training"] |= {"steps": 120, "batch_size": 4, "checkpoint_every": 200}
    composed["base"]["ranks"] = 1
    make_repository(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(composed))
    shutil.copytree(ROOT / "infra/deepspeed", "infra/deepspeed")
    rows = [
        {
            "dataset": name,
            "episode_index": episode.index,
            "subset": episode.subset,
            "task": episode.task,
            "instruction": episode.instruction,
            "skill_index": 0,
            "skill_count": 1,
            "start": 0,
            "end": 16,
            "raw_end": 16,
            "prompt": "push the puck",
            "provider": "schema",
        }
        for name in ("labelled", "video_only")
        for episode in EpisodeDataset.open(Path("artifacts/demos") / name).episodes
    ]
    write_parquet("artifacts/skills/skills.parquet", rows, schema_of(SkillRow))
    for command in (["-m", "world2act.training.launch", "stages.tokenizer"], ["-m", "stages.latents"]):
        environment = stage_environment() | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    cache = open_latents("artifacts/latents")
    assert cache.views == Layout.of(["corner2", "gripperPOV", "corner3"], (32, 32))
    assert cache.latent_shape[1:] == (4, 4)
    (clip,) = cache.select("video_only", "heldout")
    dataset = EpisodeDataset.open("artifacts/demos/video_only")
    decoded = load_tokenizer("artifacts/tokenizer").decode(torch.tensor(cache.latents(clip))[None])[0]
    shown = cache.views.untile(decoded)
    real = {name: dataset.frames(clip.episode_index, name, range(17)).astype(float) for name in shown}
    errors = {(a, b): np.square(shown[a] - real[b]).mean() for a in shown for b in real}
    for name in shown:
        assert min(errors, key=lambda pair: (pair[0] != name, errors[pair])) == (name, name), "views are mixed up"
