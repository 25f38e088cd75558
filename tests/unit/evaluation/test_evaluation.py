"""Closed-loop rollouts in the real simulator, records of an evaluation, and videos."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.rigs import metaworld_rig
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.seeds import derive
from world2act.core.storage import read_json, write_json, write_parquet
from world2act.core.tables import schema_of
from world2act.data.initial_states import InitialStateRow
from world2act.evaluation.check import success_rate
from world2act.evaluation.records import write_episodes
from world2act.evaluation.rollout import (
    EpisodeResult,
    InitialState,
    read_initial_states,
    roll_out,
    tasks_of_slots,
)
from world2act.evaluation.statistics import wilson
from world2act.evaluation.summary import Summary, summarise
from world2act.evaluation.videos import choose_episodes, film
from world2act.films.video import write_video
from world2act.policies.base import Policy, load_policy
from world2act.policies.random import RandomPolicy
from world2act.sims.base import Observation
from world2act.sims.metaworld.environment import make_environment
from world2act.sims.pool import EnvironmentPool

RIG = metaworld_rig(image_size=32, settle_steps=2)
STATES = [InitialState("window-open", seed) for seed in (11, 12, 13)] + [InitialState("hammer", 11)]


class Push:
    """Moves along +x with the gripper open, which opens the window from where the arm starts and drives no nail."""

    chunk_length, action_dim = 4, 4

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.seen = noise, []

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        self.seen.append(list(seeds))
        moves = [np.random.default_rng(seed).normal(0, self.noise, (4, 4)) for seed in seeds]
        return np.clip(np.array([1.0, 0, 0, -1]) + moves, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool(RIG, tasks_of_slots(STATES, 3), workers=2) as pool:
        yield pool


def test_slots_follow_the_number_of_states() -> None:
    assert sorted(tasks_of_slots(STATES, 3)) == ["hammer", "window-open", "window-open"]
    assert sorted(tasks_of_slots(STATES, 1)) == ["hammer", "window-open"]
    assert len(tasks_of_slots(STATES, 100)) == len(STATES)


def test_every_state_runs_once_and_its_log_replays_it(pool: EnvironmentPool) -> None:
    results = roll_out(Push(noise=0.3), pool, STATES, max_steps=10)
    assert [(r.task, r.seed) for r in results] == [(s.task, s.seed) for s in STATES]
    assert all(r.error == "" and r.success is False and r.steps == 10 for r in results)
    assert all(np.abs(r.actions).max() <= 1 for r in results)
    # the frames of a replay are those of a new environment that takes the logged actions
    frames = pool.replay(pool.tasks.index("hammer"), 11, results[-1].actions, 64)
    environment = make_environment("hammer", RIG)
    environment.reset(11)
    for action in results[-1].actions:
        environment.step(action)
    assert np.array_equal(frames[-1], environment.render(64))
    assert len(frames) == 11 and not np.array_equal(frames[0], frames[-1])


def test_an_episode_does_not_depend_on_its_neighbours(pool: EnvironmentPool) -> None:
    together = roll_out(Push(noise=0.3), pool, STATES, max_steps=8)
    alone = roll_out(Push(noise=0.3), pool, STATES[2:3], max_steps=8)
    assert np.array_equal(together[2].actions, alone[0].actions)


def test_noise_is_paired_between_policies_and_fresh_for_each_chunk(pool: EnvironmentPool) -> None:
    one, two = Push(), Push(noise=0.5)
    roll_out(one, pool, STATES, max_steps=8)
    roll_out(two, pool, STATES, max_steps=8)
    assert one.seen == two.seen
    seeds = {derive(seed, "noise", chunk) for seed in range(20) for chunk in range(50)}
    assert len(seeds) == 1000


def test_success_ends_an_episode_and_a_failure_takes_all_steps(pool: EnvironmentPool) -> None:
    expert = make_environment("window-open", RIG)
    expert.reset(11)
    actions, success = [], False
    while not success:
        actions.append(expert.expert_action())
        success = expert.step(actions[-1])

    class Replay(Push):
        def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
            first = 4 * len(self.seen)
            self.seen.append(list(seeds))
            chunk = np.zeros((4, 4), np.float32)
            chunk[: len(actions[first : first + 4])] = actions[first : first + 4]
            return np.stack([chunk] * len(observations))

    result = roll_out(Replay(), pool, STATES[:1], max_steps=len(actions) + 20)[0]
    assert result.success is True
    assert result.steps == len(actions)
    assert roll_out(Replay(), pool, STATES[:1], max_steps=len(actions) - 10)[0].success is False


def test_a_crash_is_an_error_and_never_a_failure(pool: EnvironmentPool) -> None:
    class Killer(Push):
        def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
            if len(self.seen) == 1:
                os.kill(pool._workers[0].process.pid, 9)
            return super().predict(observations, seeds)

    results = roll_out(Killer(), pool, STATES[:2] + STATES[3:], max_steps=16)
    lost = [r for r in results if r.error]
    assert 0 < len(lost) < 3
    assert all(r.success is None and r.steps < 16 for r in lost)
    assert all(r.success is False and r.steps == 16 for r in results if not r.error)
    again = roll_out(Push(), pool, STATES, max_steps=4)
    assert not any(r.error for r in again)


def test_a_state_without_a_slot_is_named(pool: EnvironmentPool) -> None:
    with pytest.raises(BadInput):
        roll_out(Push(), pool, [InitialState("assembly", 1)], max_steps=4)


def test_random_policy_is_uniform_and_seeded(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"family": "random", "chunk_length": 4, "action_dim": 3})
    policy = load_policy(tmp_path)
    assert isinstance(policy, Policy) and isinstance(policy, RandomPolicy)
    observation = Observation({}, np.zeros(4, np.float32), "", np.zeros(0, np.float32))
    chunks = policy.predict([observation] * 500, range(500))
    assert (
        chunks.shape == (500, 4, 3) and abs(chunks.mean()) < 0.03 and chunks.std() == pytest.approx(3**-0.5, abs=0.02)
    )
    assert np.array_equal(policy.predict([observation], [7])[0], chunks[7])


def test_summary_counts_errors_apart_and_pairs_by_state(tmp_path: Path) -> None:
    results = {
        "base": [_result("a", s, s < 6) for s in range(10)] + [_result("b", s, False) for s in range(10)],
        "post_train": [_result("a", s, s < 8 if s else None) for s in range(10)]
        + [_result("b", s, s == 3) for s in range(10)],
    }
    summary = summarise(results, 0.95, incumbent="base", candidates=["post_train"])
    post = summary.policies["post_train"]
    assert (post.pooled.successes, post.pooled.count, post.errors) == (8, 19, 1)
    assert post.tasks["a"] == wilson(7, 9, 0.95)
    candidate = summary.candidates["post_train"]
    assert candidate.pooled.count == 19 and candidate.pooled.difference == pytest.approx((8 - 5) / 19)
    assert candidate.promote is True
    assert summary.metrics()["difference_post_train"] == candidate.pooled.difference
    reverse = summarise(results, 0.95, incumbent="post_train", candidates=["base"])
    assert reverse.candidates["base"].pooled.difference == pytest.approx(-3 / 19)
    summary.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == summary
    summary.write_table(tmp_path / "success.csv")
    rows = list(csv.DictReader((tmp_path / "success.csv").open()))
    assert [r["task"] for r in rows if r["policy"] == "base"] == ["a", "b", "all"]
    assert float(rows[0]["low"]) < float(rows[0]["success"]) < float(rows[0]["high"])


def test_a_candidate_that_lost_every_pair_to_errors_is_not_promoted() -> None:
    results = {"base": [_result("a", 0, True)], "post_train": [_result("a", 0, None)]}
    assert (
        summarise(results, 0.95, incumbent="base", candidates=["post_train"]).candidates["post_train"].promote is False
    )


def test_success_rate_leaves_errors_out() -> None:
    assert success_rate([_result("a", 0, True), _result("a", 1, False), _result("a", 2, None)]) == 0.5
    with pytest.raises(InfrastructureError):
        success_rate([_result("a", 0, None)])


def test_a_worse_candidate_is_not_promoted() -> None:
    results = {
        "base": [_result("a", s, s < 35) for s in range(40)],
        "post_train": [_result("a", s, s < 5) for s in range(40)],
    }
    results["rival"] = [_result("a", s, s < 36) for s in range(40)]
    candidates = summarise(results, 0.95, incumbent="base", candidates=["post_train", "rival"]).candidates
    assert candidates["post_train"].promote is False and candidates["post_train"].reason.startswith("worse")
    assert candidates["rival"].promote is True


def test_a_damaged_summary_names_the_key(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"confidence": 0.95, "incumbent": "base", "policies": {}, "candidates": 3})
    with pytest.raises(BadInput, match=r"summary\.json: candidates"):
        Summary.read(tmp_path / "summary.json")


def test_episode_files_carry_the_protocol(tmp_path: Path) -> None:
    write_episodes(tmp_path, [_result("a", 5, None)], {"simulator": "metaworld"})
    episode = read_json(tmp_path / "a-5.json")
    assert episode["success"] is None and episode["error"] == "died"
    assert episode["protocol"] == {"simulator": "metaworld"}
    assert np.array_equal(np.array(episode["actions"], np.float32), _result("a", 5, None).actions)


def test_initial_states_of_one_set(tmp_path: Path) -> None:
    common = {"instruction": "move", "scene": [0.0]}
    rows = [
        {"set": kind, "task": task, "seed": s, **common}
        for s in range(3)
        for task in "ab"
        for kind in ("test", "post_training")
    ]
    write_parquet(tmp_path / "states.parquet", rows, schema_of(InitialStateRow))
    assert read_initial_states(tmp_path / "states.parquet", "test", 2) == [
        InitialState(t, s) for t in "ab" for s in (0, 1)
    ]
    with pytest.raises(BadInput):
        read_initial_states(tmp_path / "states.parquet", "test", 4)
    with pytest.raises(BadInput):
        read_initial_states(tmp_path / "states.parquet", "none")


def test_successes_and_failures_are_both_filmed(pool: EnvironmentPool, tmp_path: Path) -> None:
    results = [_result("hammer", s, s == 2, steps=3) for s in range(5)] + [_result("window-open", 0, False, steps=3)]
    chosen = choose_episodes(results, 3)
    assert [(r.task, r.seed) for r in chosen] == [("hammer", 2), ("hammer", 0), ("hammer", 1), ("window-open", 0)]
    film(tmp_path, "base", results, pool, per_task=2, size=32, fps=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "base-hammer-0-failure.mp4",
        "base-hammer-2-success.mp4",
        "base-window-open-0-failure.mp4",
    ]


def test_video_plays_in_browsers_and_has_the_same_bytes_twice(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None]
    frames = np.stack([np.roll(np.broadcast_to(ramp, (64, 48, 3)), t, axis=0) for t in range(9)])
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, frames, 20)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    with av.open(str(tmp_path / "one.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 20)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 6


def _result(task: str, seed: int, success: bool | None, steps: int = 2) -> EpisodeResult:
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 4)).astype(np.float32)
    return EpisodeResult(task, seed, success, actions, "" if success is not None else "died")
