"""Where skills begin without a grasp, and how far found boundaries lie from those that the expert knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.rigs import record
from world2act.collection.demonstrations import make_demonstrations
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params
from world2act.core.params.skills import Motion, Touch
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.recording import PHASE, STATE, gripper_opening
from world2act.data.skill_table import SkillRow
from world2act.sims.metaworld.environment import make_environment
from world2act.sims.rig import Rig
from world2act.skills.boundaries import boundary_metrics, count_boundaries, count_matches, expert_boundaries, f1
from world2act.skills.contact import Event, touch_events
from world2act.skills.events import Calibration, find_events
from world2act.skills.motion import motion_events
from world2act.skills.schema import SchemaProvider
from world2act.skills.segmentation import DATASETS, segment

MOTION = Motion(window_frames=6, turn_deg=40.0, stroke_m=0.02, response_frames=0)


def path(*legs: tuple[tuple[float, float, float], int]) -> np.ndarray:
    """Positions, metres: each leg a displacement a frame, and for how many frames."""
    steps = np.concatenate([np.tile(step, (frames, 1)) for step, frames in legs])
    return np.vstack([np.zeros(3), np.cumsum(steps, 0)])


DOWN, ALONG, BENT = (0, 0, -0.01), (0.01, 0, 0), (0.01, 0.006, 0)


def test_the_last_turn_of_the_path_is_where_the_act_begins() -> None:
    assert motion_events(path((ALONG, 20), (DOWN, 15), (ALONG, 20)), MOTION) == [Event(35, "motion_change")]
    slower = MOTION.model_copy(update={"response_frames": 3})
    assert motion_events(path((DOWN, 15), (ALONG, 20)), slower) == [Event(12, "motion_change")]


@pytest.mark.parametrize(
    "positions",
    [
        path((ALONG, 40)),
        path((ALONG, 20), (BENT, 20)),  # by 31 degrees
        path((DOWN, 20), ((0, 0, 0), 20)),  # stops and stays
        path((DOWN, 3), (ALONG, 40)),  # too short a leg, first
        path((ALONG, 40), (DOWN, 3)),  # or last
        path((DOWN, 4)),  # too short an episode
    ],
    ids=["straight", "gentle", "rest", "short first leg", "short last leg", "short episode"],
)
def test_what_is_no_turn_is_no_event(positions: np.ndarray) -> None:
    assert motion_events(positions, MOTION) == []


def test_touch_begins_at_its_threshold_and_a_knock_is_none() -> None:
    force_n = np.array([0] * 10 + [40] * 2 + [0] * 10 + [35] * 3 + [15] * 10 + [0] * 10 + [40] * 5)
    touch = Touch(threshold_n=30.0, release_n=10.0, min_frames=4)
    assert touch_events(force_n, touch) == [Event(22, "touch_onset"), Event(45, "touch_onset")]
    assert touch_events(np.full(20, 50.0), touch) == []


def test_noise_of_a_resting_hand_is_no_turn() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, (60, 3))
    assert motion_events(noise, MOTION) == []
    (event,) = motion_events(path((DOWN, 30), (ALONG, 29)) + noise, MOTION)
    assert abs(event.frame - 30) <= 2


@pytest.mark.parametrize(
    ("phases", "boundaries"),
    [
        ([0] * 10 + [1] * 10, [10]),
        ([0] * 10 + [1] * 5 + [0] * 3 + [1] * 10, [10]),  # stepped back for less than the noise is held
        ([0] * 10 + [1] * 5 + [0] * 4 + [1] * 10, [19]),  # went back for longer: the later one is for good
        ([0] * 10 + [1] * 10 + [0] * 4, []),  # was not at it at the end
        ([0] * 10 + [1] * 10 + [0] * 3, [10]),
        ([0] * 20, []),
        ([0] * 8 + [1] * 8 + [2] * 8, [8, 16]),
        ([0] * 8 + [2] * 8, [8]),
        ([1] * 20, []),
        ([0] * 2 + [1] * 18, [2]),
    ],
)
def test_a_true_boundary_is_where_the_phase_changes_for_good(phases: list[int], boundaries: list[int]) -> None:
    assert expert_boundaries(np.array(phases, np.float32)) == boundaries


@pytest.mark.parametrize(
    ("found", "true", "tolerance", "matched"),
    [
        ([20], [25], 5, 1),
        ([20], [26], 5, 0),
        ([20], [18, 22], 5, 1),  # one found boundary answers for one true one
        ([18, 22], [20], 5, 1),
        ([10, 14], [14, 18], 4, 2),  # not greedily 14 with 14
        ([], [10], 5, 0),
        ([10], [], 5, 0),
        ([5, 40], [44, 80], 5, 1),
    ],
)
def test_boundaries_match_one_to_one(found: list[int], true: list[int], tolerance: int, matched: int) -> None:
    count = count_matches(found, true, tolerance)
    assert dict(count) == {"matched": matched, "found": len(found), "true": len(true)}
    assert f1(count) == pytest.approx(2 * matched / (len(found) + len(true)))


def test_f1_of_nothing_is_nothing() -> None:
    assert f1(count_matches([], [], 5)) is None


def write(folder: Path, phases: list[np.ndarray] | None, names: list[str], state: np.ndarray) -> EpisodeDataset:
    folder.mkdir()
    features = {STATE: array_feature(names)} | ({PHASE: array_feature(["phase"])} if phases else {})
    with DatasetWriter(folder, features=features, fps=80, robot_type="sawyer", extra={}) as writer:
        for each in phases or [None]:
            arrays = {STATE: state.astype(np.float32)} | ({} if each is None else {PHASE: each[:, None]})
            writer.add(encode(Episode("hammer", "hammer", 1, {}, arrays)))
    return EpisodeDataset.open(folder)


def test_discarded_episodes_count_as_missed_and_unknown_phases_not_at_all(tmp_path: Path) -> None:
    phases = np.repeat(np.array([0, 1], np.float32), 20)
    state = np.zeros((40, 4))
    dataset = write(tmp_path / "a", [phases, phases, np.full(40, -1, np.float32)], ["a", "b", "c", "d"], state)
    skills = [
        SkillRow("labelled", 0, "train", "hammer", "hammer", k, 2, start, end, end, "hit", "schema")
        for k, start, end in ((0, 0, 22), (1, 22, 39))
    ]
    counts = count_boundaries({"labelled": dataset}, skills, 2)
    assert {task: dict(count) for task, count in counts.items()} == {"hammer": {"matched": 1, "found": 1, "true": 2}}
    measured = boundary_metrics({"labelled": dataset}, skills)
    assert measured["boundary_f1_2"] == measured["boundary_f1_5_by_task"]["hammer"] == pytest.approx(2 / 3)
    without = write(tmp_path / "b", None, ["a", "b", "c", "d"], state)
    assert boundary_metrics({"labelled": without}, skills) == {}


def test_the_opening_is_read_as_each_embodiment_records_it(tmp_path: Path) -> None:
    fingers = np.array([[0.04, -0.04], [0.01, -0.02]])
    panda = write(tmp_path / "panda", None, ["gripper_left_m", "gripper_right_m"], fingers)
    np.testing.assert_allclose(gripper_opening(panda, panda.columns(0, [STATE])), [0.08, 0.03], rtol=1e-6)
    other = write(tmp_path / "other", None, ["a", "b"], fingers)
    with pytest.raises(BadInput, match="gripper_opening_m, or gripper_left_m and gripper_right_m"):
        gripper_opening(other, other.columns(0, [STATE]))


@pytest.mark.parametrize("task", ["hammer", "plate-slide", "door-open", "drawer-close", "button-press"])
def test_experts_know_their_phase_and_asking_changes_nothing(task: str) -> None:
    """The first action approaches, the last one acts, and the library's own policy acts as ours does."""
    from metaworld import policies

    demos = parse_params(compose("default", ROOT), "a test").demos
    environment = make_environment(task, replace(Rig.from_params(demos), image_size=16))
    episode = record(environment, 4_000_000, demos)
    phases = episode.arrays[PHASE][:, 0]
    assert phases[0] == 0 and phases[-1] == 1 and len(expert_boundaries(phases)) == 1
    theirs = getattr(policies, f"Sawyer{task.title().replace('-', '')}V3Policy")()
    environment.reset(4_000_000)
    for executed, action in zip(episode.arrays["action.executed"], episode.arrays["action"], strict=True):
        np.testing.assert_array_equal(np.clip(theirs.get_action(environment._state.copy()), -1, 1), action)
        environment.step(executed)


@pytest.mark.parametrize("task", ["plate-slide", "button-press"])
def test_a_force_on_the_hand_is_touch(task: str, tmp_path: Path) -> None:
    """Contact forces of the simulator on the hand, as a force sensor would give them, while an expert acts."""
    import mujoco

    demos = parse_params(compose("default", ROOT), "a test").demos
    environment = make_environment(task, replace(Rig.from_params(demos), image_size=16))
    environment.reset(4_000_001)
    model, data, states, wrench = environment._model, environment._data, [], np.zeros(6)
    hand = model.body_weldid == model.body("hand").weldid[0]
    for name in ("rightclaw", "leftclaw", "rightpad", "leftpad"):
        hand |= np.arange(model.nbody) == model.body(name).id
    phases, success = [], False
    while not success:
        action, force = environment.expert_action(), 0.0
        phases.append(environment.expert_phase())
        for i, contact in enumerate(data.contact):
            if hand[model.geom_bodyid[contact.geom1]] != hand[model.geom_bodyid[contact.geom2]]:
                mujoco.mj_contactForce(model, data, i, wrench)
                force += float(np.linalg.norm(wrench[:3]))
        states.append([*environment._state[:3], environment.gripper_opening(), force])
        success = environment.step(action)
    names = ["ee_x_m", "ee_y_m", "ee_z_m", "gripper_opening_m", "ee_force_n"]
    events = find_events(write(tmp_path / task, None, names, np.array(states)), 0, calibration())
    (boundary,) = expert_boundaries(np.array(phases))
    (touch,) = [event.frame for event in events if event.kind == "touch_onset"]
    assert boundary < touch <= boundary + 20 and not any(force for *_, force in states[: boundary - 1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EpisodeDataset]:
    """Six demonstrations of a task with a grasp and one without."""
    values = compose("default", ROOT)
    values["demos"] |= {
        "tasks": ["sweep-into", "plate-slide"],
        "image_size": 16,
        "labelled_per_task": 4,
        "video_only_per_task": 2,
        "post_training_per_task": 1,
        "test_per_task": 1,
    }
    folder = tmp_path_factory.mktemp("demos")
    make_demonstrations(parse_params(values, "a test").demos, 7, 1, folder)
    return {name: EpisodeDataset.open(folder / name) for name in DATASETS}


def calibration() -> Calibration:
    return Calibration.of(parse_params(compose("default", ROOT), "a test").skills)


def test_skills_begin_where_the_expert_says(made: dict[str, EpisodeDataset]) -> None:
    result = segment(made, calibration(), SchemaProvider(ROOT / "conf/skills/metaworld.yaml"))
    measured = boundary_metrics(made, result.skills)
    assert result.discards == [] and len(result.skills) == 2 * 12
    assert measured["boundary_f1_5_by_task"] == {"plate-slide": 1.0, "sweep-into": 1.0}
    assert measured["boundary_f1_2"] <= measured["boundary_f1_5"] <= measured["boundary_f1_10"]


def test_segmentation_never_reads_what_only_the_expert_knows(
    made: dict[str, EpisodeDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads proprioception, nothing else: no phase, no scene, no action and no frame."""
    seen: set[str] = set()
    read = EpisodeDataset._read

    def watch(self: EpisodeDataset, index: int, names: list[str]) -> object:
        seen.update(names)
        return read(self, index, names)

    monkeypatch.setattr(EpisodeDataset, "_read", watch)
    segment(made, calibration(), SchemaProvider(ROOT / "conf/skills/metaworld.yaml"))
    assert seen == {STATE}
