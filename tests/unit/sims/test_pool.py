"""The environment pool: the same as one environment alone, and it survives the death of a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from tests.helpers.rigs import make, metaworld_rig
from world2act.sims.pool import EnvironmentPool, SlotsLost

TASKS = ("plate-slide", "hammer", "plate-slide", "hammer")


@pytest.fixture(scope="module")
def pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool(metaworld_rig(), TASKS, workers=2) as pool:
        yield pool


def test_slots_behave_like_environments_alone(pool: EnvironmentPool) -> None:
    alone = make("hammer")
    alone.reset(21)
    first = pool.reset({0: 5, 1: 21, 3: 22})
    assert sorted(first) == [0, 1, 3]
    np.testing.assert_array_equal(first[1].images["corner2"], alone.observe().images["corner2"])
    rng = np.random.default_rng(0)
    for _ in range(3):
        chunk = rng.normal(0, 1, (4, 4)).astype(np.float32)
        results = pool.step({1: chunk, 3: -chunk})
        for action in chunk:
            alone.step(action)
        expected = alone.observe()
        np.testing.assert_array_equal(results[1].observation.images["corner2"], expected.images["corner2"])
        np.testing.assert_array_equal(results[1].observation.proprio, expected.proprio)
        np.testing.assert_array_equal(results[1].actions, np.clip(chunk, -1, 1))
        assert results[1].steps == 4 and not results[1].success
        assert (results[3].observation.proprio != expected.proprio).any()


def test_success_ends_a_chunk_and_replay_films_the_same_episode(pool: EnvironmentPool) -> None:
    expert = make("plate-slide")
    expert.reset(7)
    start = pool.reset({0: 7})[0].images["corner2"]
    log, result = [], None
    while result is None or not result.success:
        chunk = np.stack([_expert_step(expert) for _ in range(4)])
        result = pool.step({0: chunk})[0]
        log.append(result.actions)
    actions = np.concatenate(log)
    assert 0 < result.steps <= 4 and len(actions) < 120
    film = pool.replay(0, 7, actions, 64)
    assert film.shape == (len(actions) + 1, 64, 64, 3)
    np.testing.assert_array_equal(film[0], start)
    np.testing.assert_array_equal(film[-1], result.observation.images["corner2"])
    assert pool.replay(0, 7, actions[:1], 128).shape == (2, 128, 128, 3)


def _expert_step(expert: object) -> np.ndarray:
    action = expert.expert_action()
    expert.step(action)
    return action


def test_a_dead_process_costs_its_own_slots_only(pool: EnvironmentPool) -> None:
    first = pool.reset({slot: 40 + slot for slot in range(4)})
    victim = next(worker for worker in pool._workers if 1 in worker.slots)
    os.kill(victim.process.pid, signal.SIGKILL)
    still = {slot: np.zeros((4, 4)) for slot in range(4)}
    with pytest.raises(SlotsLost, match="slot 1, task hammer, seed 41") as lost:
        pool.step(still)
    assert lost.value.slots == {1, 3} and sorted(lost.value.results) == [0, 2]
    with pytest.raises(ValueError, match="before they were reset"):
        pool.step({1: still[1]})
    again = pool.reset({1: 41})
    np.testing.assert_array_equal(again[1].images["corner2"], first[1].images["corner2"])
    assert sorted(pool.step({0: still[0], 1: still[1]})) == [0, 1]


def test_an_error_in_a_process_names_its_slot(pool: EnvironmentPool) -> None:
    pool.reset({0: 1, 3: 2})
    with pytest.raises(SlotsLost, match="slot 3, task hammer, seed 2") as lost:
        pool.step({0: np.zeros((4, 4)), 3: np.zeros((4, 3))})
    assert sorted(lost.value.results) == [0] and "slot 0" not in str(lost.value)
    pool.reset({3: 2})
