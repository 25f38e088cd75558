"""Skills: contact, prompts, and an alignment that lets no provider invent, lose or overlap a frame."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import compose
from world2act.core.params.skills import Contact, Motion
from world2act.core.storage import read_parquet, sha256
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.sims import metaworld
from world2act.skills.clips import Discard, cut_clips
from world2act.skills.contact import Event, contact_events
from world2act.skills.events import Calibration
from world2act.skills.language import END, Answer, Request, Segment
from world2act.skills.schema import SchemaProvider
from world2act.skills.segmentation import leave_whole, metrics, save, save_length_plot, save_synchronised_plot, segment

CONTACT = Contact(open_width_m=0.1, threshold_m=0.03, release_m=0.02, min_frames=4)
MOTION = Motion(window_frames=6, turn_deg=40.0, stroke_m=0.02, response_frames=0)
CALIBRATION = Calibration({"sawyer": CONTACT}, {"sawyer": MOTION}, {})
SCHEMA = ROOT / "conf/skills/metaworld.yaml"


def opening(*runs: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(frames, width) for width, frames in runs])


def request(frames: int, *events: Event, task: str = "hammer") -> Request:
    return Request(task, "pick up the hammer and drive the nail into the block", frames, events)


def test_contact_begins_at_the_threshold_and_ends_below_release() -> None:
    widths = opening((0.1, 10), (0.071, 3), (0.069, 5), (0.078, 6), (0.081, 7))
    assert contact_events(widths, CONTACT) == [Event(13, "contact_onset"), Event(24, "contact_end")]


def test_flickers_are_no_contact_and_no_release() -> None:
    assert contact_events(opening((0.1, 10), (0.05, 3), (0.1, 10)), CONTACT) == []
    held = opening((0.1, 10), (0.05, 8), (0.1, 3), (0.05, 8), (0.1, 9))
    assert contact_events(held, CONTACT) == [Event(10, "contact_onset"), Event(29, "contact_end")]


def test_contact_without_approach_has_no_onset() -> None:
    assert contact_events(opening((0.03, 40)), CONTACT) == []
    assert contact_events(opening((0.03, 20), (0.1, 20)), CONTACT) == [Event(20, "contact_end")]


def test_skills_are_contiguous_on_the_grid_of_latents() -> None:
    events = (Event(13, "contact_onset"), Event(34, "contact_end"))
    answer = Answer((Segment("pick", 0), Segment("place", 1), Segment("retreat", END)))
    skills = cut_clips(request(59, *events), answer)
    assert [(s.start, s.end, s.raw_end) for s in skills] == [(0, 12, 13), (12, 36, 34), (36, 56, 58)]
    assert skills[0].start == 0
    for skill, following in itertools.pairwise(skills):
        assert skill.end == following.start
    assert all((s.end - s.start) % 4 == 0 and s.end > s.start for s in skills)


@pytest.mark.parametrize("frames", range(40, 48))
def test_the_last_skill_stays_inside_the_episode(frames: int) -> None:
    (skill,) = cut_clips(request(frames), Answer((Segment("push", END),)))
    assert frames - 4 <= skill.end <= frames - 1
    (skill,) = cut_clips(request(frames, Event(frames - 1, "contact_end")), Answer((Segment("push", 0),)))
    assert skill.end <= frames - 1


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ((Segment("pick", 2), Segment("place", END)), "event 2 was not among the 2 given"),
        ((Segment("pick", -1), Segment("place", END)), "event -1 was not among"),
        ((Segment("pick", 20), Segment("place", END)), "event 20 was not among"),
        ((Segment("pick", True), Segment("place", END)), "event True was not among"),
        ((Segment("pick", "0"), Segment("place", END)), "event '0' was not among"),
        ((Segment("pick", 1), Segment("place", 0)), "not after frame"),
        ((Segment("pick", 0), Segment("place", 0)), "not after frame"),
        ((Segment("pick", END), Segment("place", END)), "before the last one"),
        ((Segment("pick", 0), Segment("  ", END)), "prompt 1 is empty"),
        ((), "no prompt"),
    ],
)
def test_whatever_a_provider_answers_is_checked(segments: tuple[Segment, ...], reason: str) -> None:
    with pytest.raises(Discard, match=reason):
        cut_clips(request(60, Event(20, "contact_onset"), Event(40, "contact_end")), Answer(segments))


def test_no_skill_shorter_than_a_latent() -> None:
    for frame in (1, 57):
        with pytest.raises(Discard, match="shorter than one latent"):
            cut_clips(request(59, Event(frame, "contact_onset")), Answer((Segment("pick", 0), Segment("place", END))))


def test_schema_knows_every_task_and_names_a_missing_one(tmp_path: Path) -> None:
    provider = SchemaProvider(SCHEMA)
    for task in metaworld.TASKS.values():
        both = (Event(10, "contact_onset"), Event(30, "motion_change"))
        (answer,) = provider.split([request(80, *both, task=task.name)])
        grasp, act = cut_clips(request(80, *both), answer)
        assert (grasp.end, act.end) == (12 if task.prehensile else 32, 76), task.name
    with pytest.raises(BadInput, match="juggle"):
        provider.split([request(80, task="juggle")])
    broken = tmp_path / "schema.yaml"
    broken.write_text("hammer: [{prompt: pick, ends_at: midnight}]")
    with pytest.raises(BadInput, match="ends_at"):
        SchemaProvider(broken)


def test_schema_refuses_where_counts_differ() -> None:
    onset = Event(30, "contact_onset")
    requests = [request(80), request(80, onset, Event(50, "contact_end"), Event(60, "contact_onset"))]
    missing, double = SchemaProvider(SCHEMA).split(requests)
    assert missing.refusal == "no event for prompts that end at 1 contact_onset"
    assert double.refusal == "2 contact_onset for prompts that end at 1 contact_onset"
    with pytest.raises(Discard, match="2 contact_onset"):
        cut_clips(requests[1], double)


@pytest.fixture
def dataset(tmp_path: Path) -> EpisodeDataset:
    """Hammer grasped, a ring never grasped, a plate pushed with the gripper open; no action column."""
    path = tmp_path / "video_only"
    path.mkdir()
    features = {
        "observation.state": array_feature(["ee_x_m", "ee_y_m", "ee_z_m", "gripper_opening_m"]),
        "observation.images.front": image_feature(4, 4),
    }
    grips = {
        "hammer": opening((0.1, 22), (0.05, 41)),
        "assembly": opening((0.1, 50)),
        "plate-slide": opening((0.1, 47)),
    }
    with DatasetWriter(path, features=features, fps=80, robot_type="sawyer", extra={}) as writer:
        for task, grip in grips.items():
            down = np.minimum(np.arange(len(grip)), 19) * 0.01
            along = np.arange(len(grip)) * 0.01 - down
            state = np.stack([np.zeros_like(grip), along, -down, grip], 1).astype(np.float32)
            frames = np.zeros((len(grip), 4, 4, 3), np.uint8)
            writer.add(encode(Episode(task, f"do {task}", 1, {"front": frames}, {"observation.state": state})))
        writer.set_splits({"train": range(2), "heldout": range(2, 3)})
    return EpisodeDataset.open(path)


def test_episodes_without_actions_become_skills(dataset: EpisodeDataset, tmp_path: Path) -> None:
    result = segment({"video_only": dataset}, CALIBRATION, SchemaProvider(SCHEMA))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(result, tmp_path / name)
        save_length_plot(result, tmp_path / name / "clip_lengths.csv")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    lengths = (tmp_path / "a/clip_lengths.csv").read_text().splitlines()
    assert lengths[0] == "frames,episodes,skill clips" and lengths[3:5] == ["16,0.0,0.25", "24,0.0,0.5"]
    skills = read_parquet(tmp_path / "a/skills.parquet").to_pylist()
    spans = [
        (r["episode_index"], r["subset"], r["skill_index"], r["skill_count"], r["start"], r["end"], r["raw_end"])
        for r in skills
    ]
    assert spans == [
        (0, "train", 0, 2, 0, 24, 22),
        (0, "train", 1, 2, 24, 60, 62),
        (2, "heldout", 0, 2, 0, 20, 19),
        (2, "heldout", 1, 2, 20, 44, 46),
    ]
    assert skills[1]["prompt"] == "drive the nail into the block with the hammer" and skills[1]["provider"] == "schema"
    (discard,) = read_parquet(tmp_path / "a/discards.parquet").to_pylist()
    assert discard["task"] == "assembly" and "no event" in discard["reason"]
    lines = [json.loads(line) for line in (tmp_path / "a/transcripts.jsonl").read_text().splitlines()]
    assert lines[0]["request"]["events"] == [
        {"index": 0, "frame": 19, "kind": "motion_change"},
        {"index": 1, "frame": 22, "kind": "contact_onset"},
    ]
    assert metrics(result)["synchronised"] == pytest.approx(2 / 3)
    assert metrics(result)["synchronised_by_task"] == {"assembly": 0.0, "hammer": 1.0, "plate-slide": 1.0}
    save_synchronised_plot(metrics(result)["synchronised_by_task"], tmp_path / "synchronised.csv")
    rows = (tmp_path / "synchronised.csv").read_text().splitlines()
    assert rows[1:] == [
        "assembly,0.0",
        "hammer,1.0",
        "plate-slide,1.0",
        "World2Act on LIBERO,0.869",
        "World2Act on RoboCasa,0.962",
    ]


def test_an_undivided_episode_is_one_clip_by_its_instruction(dataset: EpisodeDataset, tmp_path: Path) -> None:
    result = leave_whole({"video_only": dataset})
    assert [row.episode_index for row in result.skills] == list(range(len(dataset))) and not result.discards
    for row, episode in zip(result.skills, dataset.episodes, strict=True):
        assert (row.start, row.skill_index, row.skill_count) == (0, 0, 1)
        assert row.end % 4 == 0 and 0 <= episode.length - 1 - row.end < 4
        assert row.prompt == row.instruction == episode.instruction and row.subset == episode.subset
    save(result, tmp_path)
    assert read_parquet(tmp_path / "skills.parquet").num_rows == len(dataset)
    assert metrics(result)["synchronised"] == 1


def test_an_embodiment_must_be_calibrated(dataset: EpisodeDataset) -> None:
    with pytest.raises(BadInput, match="an entry for sawyer"):
        segment({"video_only": dataset}, Calibration({"panda": CONTACT}, {}, {}), SchemaProvider(SCHEMA))


def test_default_profile_names_only_tasks_with_prompts() -> None:
    values = compose("default", ROOT)
    provider = SchemaProvider(ROOT / values["skills"]["schema_file"])
    for task in values["demos"]["tasks"]:
        provider.split([request(80, task=task)])
