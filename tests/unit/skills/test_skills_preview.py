"""The preview of skills: one page that needs nothing else, of any canonical dataset, divided or not."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.helpers.paths import ROOT
from world2act.cli import app
from world2act.core.params import compose, parse_params
from world2act.core.profiles import write_profile
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.skills.events import Calibration
from world2act.skills.schema import SchemaProvider
from world2act.skills.segmentation import save, segment

HAND = ["ee_x_m", "ee_y_m", "ee_z_m"]
FINGERS = ["gripper_left_m", "gripper_right_m"]


def write(folder: Path, *, robot: str = "sawyer", names: tuple[str, ...] = (*HAND, "gripper_opening_m")) -> Path:
    """Two tasks of three episodes each, two cameras of different sizes, and a task whose name is no safe HTML."""
    rng = np.random.default_rng(0)
    cameras = {"front": (24, 32), "wrist": (200, 200)}
    features = {f"observation.images.{name}": image_feature(*size) for name, size in cameras.items()}
    features |= {"observation.state": array_feature(names), "expert.phase": array_feature(["phase"])}
    folder.mkdir(parents=True)
    with DatasetWriter(folder, features=features, fps=80, robot_type=robot, extra={}) as writer:
        for i in range(6):
            task, frames = ("plate-slide", 60) if i % 2 else ("hammer", 70)
            down = np.minimum(np.arange(frames), 25) * 0.01
            position = np.stack([np.zeros(frames), np.arange(frames) * 0.01 - down, -down], 1)
            opening = np.where((np.arange(frames) >= 30) & (task == "hammer") & (i < 4), 0.05, 0.1)
            fingers = [opening] if names[-1] == "gripper_opening_m" else [opening / 2, -opening / 2]
            state = np.column_stack([position, *fingers])[:, -len(names) :].astype(np.float32)
            phase = (np.arange(frames)[:, None] >= 27).astype(np.float32)
            grey = rng.integers(0, 255, (frames, 1, 1, 1), np.uint8)  # noise takes long to compress
            images = {name: np.tile(grey, (1, *size, 3)) for name, size in cameras.items()}
            arrays = {"observation.state": state, "expert.phase": phase}
            writer.add(encode(Episode(task, f"<b>{task}</b> & more", i, images, arrays)))
        writer.set_splits({"train": range(4), "heldout": range(4, 6)})
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a pipeline with a dataset that is divided: four episodes of six, a hammer is discarded."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    write_profile("default")
    dataset = EpisodeDataset.open(write(tmp_path / "artifacts/demos/labelled"))
    skills = parse_params(compose("default", ROOT), "a test").skills
    provider = SchemaProvider(ROOT / "conf/skills/metaworld.yaml")
    (tmp_path / "artifacts/skills").mkdir()
    save(segment({"labelled": dataset}, Calibration.of(skills), provider), tmp_path / "artifacts/skills")
    return tmp_path


def preview(*options: str) -> str:
    done = CliRunner().invoke(app, ["skills", "preview", *options])
    assert done.exit_code == 0, done.output
    return Path("reports/skills_preview.html").read_text(encoding="utf-8")


class References(HTMLParser):
    """What a page loads, and the pictures and ids in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.pictures = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.pictures += tag == "img"
        self.ids += [values["id"] or ""] if "id" in values else []
        self.loads += [values[name] or "" for name in ("src", "href", "xlink:href") if name in values]


def test_a_page_that_needs_nothing_else(workspace: Path) -> None:
    page = preview("--episodes", "2")
    seen = References(page)
    assert seen.loads and all(each.startswith(("data:", "#")) for each in seen.loads)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(seen.ids) == len(set(seen.ids)), "an id twice"
    assert seen.pictures == 2 * 2 * 2 and page.count("<svg") == 4  # tasks x episodes x cameras
    assert "<b>hammer</b>" not in page and "&lt;b&gt;hammer&lt;/b&gt; &amp; more" in page


def test_discards_come_with_their_reason_and_tasks_with_their_rates(workspace: Path) -> None:
    page = preview("--episodes", "2")
    assert "no event for prompts that end at 1 contact_onset" in page
    for text in ("drive the nail into the block with the hammer", "slide the plate into the cabinet", "0.962", "0.869"):
        assert text in page
    row = re.search(r'<tr><td><a href="#hammer">.*?</tr>', page, re.DOTALL).group()
    numbers = re.findall(r'number">([^<]+)<', row)
    assert numbers == ["3", "70", "0.667", "4", "35", "0.000", "0.800", "0.800"]
    assert "found 30, the expert's 27" in page and "found 23, the expert's 27" in page


def test_pages_are_the_same_every_time(workspace: Path) -> None:
    assert preview() == preview()


def test_a_dataset_that_was_never_divided(workspace: Path) -> None:
    imported = write(workspace / "data/imported/lab", robot="ur5", names=(*HAND, *FINGERS))
    page = preview(str(imported))
    assert "has not been divided into skills" in page and "synchronised</th>" not in page
    assert page.count("<svg") == 6 and "no calibration for ur5" in page
    page = preview(str(write(workspace / "data/imported/bare", names=("gripper_opening_m",))))
    assert "contact onset" in page and "motion change" not in page and "speed" not in page


def test_skills_of_another_dataset_are_refused(workspace: Path) -> None:
    other = write(workspace / "data/other/labelled")
    done = CliRunner().invoke(app, ["skills", "preview", str(other), "--skills", "artifacts/skills"])
    assert done.exit_code == 0, done.output  # the same dataset elsewhere
    strange = write(workspace / "data/strange")
    done = CliRunner().invoke(app, ["skills", "preview", str(strange), "--skills", "artifacts/skills"])
    assert done.exit_code == 2 and "dataset strange, episode 0" in done.output
