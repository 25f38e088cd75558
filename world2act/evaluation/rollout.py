"""A policy acts in the simulator, in closed loop: initial states in, results with logged actions out."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.seeds import derive
from world2act.core.tables import read_rows
from world2act.data.initial_states import InitialStateRow
from world2act.policies.base import Policy
from world2act.sims.base import Observation
from world2act.sims.pool import ChunkResult, EnvironmentPool, SlotsLost


@dataclass(frozen=True)
class InitialState:
    """One episode to run: a task, and the seed of its scene."""

    task: str
    seed: int


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode ended.

    Attributes:
        success: whether the task succeeded within the steps allowed; None after an error, which says nothing about
            the policy.
        actions: float32 (steps, action_dim), as executed; with the seed they replay the episode.
        error: what failed in the simulator or its process; "" if nothing failed.
    """

    task: str
    seed: int
    success: bool | None
    actions: np.ndarray
    error: str

    @property
    def steps(self) -> int:
        return len(self.actions)


def read_initial_states(path: str | Path, subset: str, per_task: int | None = None) -> list[InitialState]:
    """The initial states of one set ("post_training" or "test"), or the first `per_task` of each of its tasks.

    Raises:
        BadInput: the file is missing or damaged, or a task has fewer than `per_task` states.
    """
    by_task: dict[str, list[InitialState]] = defaultdict(list)
    for row in read_rows(path, InitialStateRow):
        if row.set == subset:
            by_task[row.task].append(InitialState(row.task, row.seed))
    if not by_task:
        raise BadInput(path, "set", "no row", f"initial states of set {subset!r}", f"raise demos.{subset}_per_task")
    for task, states in by_task.items():
        if per_task and len(states) < per_task:
            found = f"{len(states)} states"
            raise BadInput(path, f"{subset}, {task}", found, f"at least {per_task}", f"raise demos.{subset}_per_task")
    return [state for states in by_task.values() for state in states[:per_task]]


def tasks_of_slots(states: Sequence[InitialState], environments: int) -> list[str]:
    """Spread a pool's slots over the tasks of `states`: at least one per task, at most one per state of the task."""
    counts: dict[str, int] = defaultdict(int)
    for state in states:
        counts[state.task] += 1
    slots = {task: 1 for task in counts}
    while sum(slots.values()) < min(environments, len(states)):
        neediest = max(slots, key=lambda task: counts[task] / slots[task])
        slots[neediest] += 1
    return [task for task, count in slots.items() for _ in range(count)]


def roll_out(
    policy: Policy, pool: EnvironmentPool, states: Sequence[InitialState], max_steps: int
) -> list[EpisodeResult]:
    """Run every initial state once. Returns the results in the order of `states`.

    Raises:
        BadInput: no slot of the pool has the task of a state.
    """
    results: dict[InitialState, EpisodeResult] = {}
    for wave in waves(states, pool.tasks):
        results |= run_wave(policy, pool, wave, max_steps)
    return [results[state] for state in states]


def waves(states: Sequence[InitialState], slots: Sequence[str]) -> list[dict[int, InitialState]]:
    """Assign initial states to slots. The episodes of a wave run together; the next wave starts when all have ended.

    Args:
        slots: the task of each slot.

    Raises:
        BadInput: no slot has the task of a state.
    """
    waiting: dict[str, deque[InitialState]] = defaultdict(deque)
    for state in states:
        waiting[state.task].append(state)
    for task in waiting.keys() - set(slots):
        expected, remedy = f"a slot for {task}", "add a slot for every task"
        raise BadInput("the environment pool", "tasks", sorted(set(slots)), expected, remedy)
    planned = []
    while any(waiting.values()):
        planned.append({slot: waiting[task].popleft() for slot, task in enumerate(slots) if waiting[task]})
    return planned


def run_wave(
    policy: Policy, pool: EnvironmentPool, wave: dict[int, InitialState], max_steps: int
) -> dict[InitialState, EpisodeResult]:
    """Run the episodes of one wave together.

    Chunks are executed in open loop. The sampling noise depends only on the episode's seed and the chunk's number, so
    two policies that start from the same states get the same scenes and the same noise.
    """
    logs: dict[int, list[np.ndarray]] = {slot: [] for slot in wave}
    results: dict[InitialState, EpisodeResult] = {}

    def finish(slot: int, success: bool | None, error: str = "") -> None:
        state = wave[slot]
        actions = np.concatenate(logs[slot]) if logs[slot] else np.zeros((0, policy.action_dim), np.float32)
        results[state] = EpisodeResult(state.task, state.seed, success, actions, error)

    observations: dict[int, Observation]
    answers: dict[int, ChunkResult]
    try:
        observations = pool.reset({slot: state.seed for slot, state in wave.items()})
    except SlotsLost as lost:
        observations = lost.results
        for slot in lost.slots:
            finish(slot, None, str(lost))
    chunk = 0
    while observations:
        seeds = [derive(wave[slot].seed, "noise", chunk) for slot in observations]
        left = max_steps - chunk * policy.chunk_length
        actions = policy.predict(list(observations.values()), seeds)[:, :left]
        try:
            answers = pool.step(dict(zip(observations, actions, strict=True)))
        except SlotsLost as lost:
            answers = lost.results
            for slot in lost.slots:
                finish(slot, None, str(lost))
        chunk += 1
        observations = {}
        for slot, answer in sorted(answers.items()):
            logs[slot].append(answer.actions)
            if answer.success or chunk * policy.chunk_length >= max_steps:
                finish(slot, answer.success)
            else:
                observations[slot] = answer.observation
    return results
