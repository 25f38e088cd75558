"""The frame cache: the frames of the dataset, made once, made anew when they change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.frame_cache import FrameCache
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter

CAMERAS = ("front", "wrist")
LENGTHS = (5, 9, 6)


def write(directory: Path, seed: int) -> EpisodeDataset:
    random = np.random.default_rng(seed)
    features = {f"observation.images.{name}": image_feature(8, 12) for name in CAMERAS}
    directory.mkdir(parents=True)
    with DatasetWriter(
        directory, features=features | {"action": array_feature(("x",))}, fps=10, robot_type="arm", extra={}
    ) as writer:
        for i, length in enumerate(LENGTHS):
            images = {name: random.integers(0, 256, (length, 8, 12, 3), dtype=np.uint8) for name in CAMERAS}
            writer.add(encode(Episode("a", "do a", i, images, {"action": np.zeros((length, 1), np.float32)})))
    return EpisodeDataset.open(directory)


@pytest.fixture
def dataset(tmp_path: Path) -> EpisodeDataset:
    return write(tmp_path / "data/set", 0)


def test_clips_are_the_frames_that_the_dataset_holds(dataset: EpisodeDataset, tmp_path: Path) -> None:
    for camera in CAMERAS:
        cache = FrameCache.open(dataset, camera, tmp_path / "cache")
        for episode, length in enumerate(LENGTHS):
            np.testing.assert_array_equal(cache.episode(episode), dataset.frames(episode, camera))
            assert len(cache.episode(episode)) == length
        clips = cache.clips([2, 0, 2], [1, 0, 0], 5)
        expected = [dataset.frames(e, camera, range(s, s + 5)) for e, s in ((2, 1), (0, 0), (2, 0))]
        np.testing.assert_array_equal(clips, np.stack(expected))


@pytest.mark.parametrize(("episode", "start"), [(0, 1), (2, 2), (1, -1)])
def test_a_clip_never_reaches_into_the_next_episode(
    dataset: EpisodeDataset, tmp_path: Path, episode: int, start: int
) -> None:
    cache = FrameCache.open(dataset, "front", tmp_path)
    with pytest.raises(ValueError, match="past the end of its episode"):
        cache.clips([episode], [start], 5)


def test_the_second_reader_decodes_nothing_and_a_changed_dataset_everything(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = FrameCache.open(write(tmp_path / "one/data/set", 0), "front", folder)
    file = folder / "data-set/front/frames.npy"
    made = file.stat().st_ino
    FrameCache.open(EpisodeDataset.open(tmp_path / "one/data/set"), "front", folder)
    assert file.stat().st_ino == made
    other = write(tmp_path / "two/data/set", 1)
    np.testing.assert_array_equal(FrameCache.open(other, "front", folder).episode(1), other.frames(1, "front"))
    assert file.stat().st_ino != made
    assert first.episode(1).any(), "who reads the old frames goes on"


def test_a_file_that_was_cut_off_is_named(dataset: EpisodeDataset, tmp_path: Path) -> None:
    FrameCache.open(dataset, "front", tmp_path / "cache")
    file = tmp_path / "cache/data-set/front/frames.npy"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(BadInput, match=r"frames\.npy"):
        FrameCache.open(dataset, "front", tmp_path / "cache")


def test_ranks_that_open_it_together_make_it_once(dataset: EpisodeDataset, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import world2act.data.frame_cache as c; decode = c._decode\n"
        "def told(*a): print('decoded'); decode(*a)\n"
        "c._decode = told\n"
        "c.FrameCache.open(c.EpisodeDataset.open(sys.argv[1]), 'front', Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(dataset.path), str(tmp_path / "cache")]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(rank.communicate()[0] for rank in ranks) == ["", "", "decoded\n"]
