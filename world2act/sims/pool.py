"""Many environments over several workers: post-training, the base policy's check and evaluation step them together.

A slot is one environment of one task, for the life of the pool. Only what a policy needs crosses between the
processes: an action chunk goes in, one observation comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

import numpy as np

from world2act.core.errors import InfrastructureError
from world2act.sims.base import Environment, Observation
from world2act.sims.checks import check_tasks
from world2act.sims.process import Call, CallRefused, SimulatorProcess, WorkerFailed, explain
from world2act.sims.rig import Rig

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class ChunkResult:
    """What an action chunk led to.

    Attributes:
        observation: after the last executed action.
        success: whether the task was a success after any of them.
        steps: actions executed.
        actions: float32 (steps, action_dim), as executed: clipped to [-1, 1].
    """

    observation: Observation
    success: bool
    steps: int
    actions: np.ndarray


class SlotsLost(InfrastructureError):
    """A worker died or raised an exception.

    Attributes:
        slots: the slots of the call that ran in it; no result of theirs is known.
        results: the results of the call for the other slots.
    """

    def __init__(self, message: str, slots: frozenset[int], results: dict[int, Any]) -> None:
        super().__init__(message)
        self.slots, self.results = slots, results


class EnvironmentPool:
    """Slots spread over workers; a context manager.

    The workers start at once and make their environments while the caller goes on. If one dies or raises, the call
    ends with `SlotsLost` after every other worker has answered. It is then started again: all of its slots must be
    reset before they are stepped again; the others go on.

    Args:
        tasks_of_slots: the task of each slot.
        workers: processes, at most one per slot.

    Raises:
        BadInput: there is no such simulator, task or interpreter.
    """

    def __init__(self, rig: Rig, tasks_of_slots: Sequence[str], *, workers: int) -> None:
        self.tasks = tuple(tasks_of_slots)
        self._rig, self._program = rig, check_tasks(rig, self.tasks).worker()
        self._seeds: dict[int, int] = {}
        count = min(workers, len(self.tasks))
        self._workers = [self._start(tuple(range(first, len(self.tasks), count))) for first in range(count)]

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Observation]:
        """Reset slots, each to its own seed, and observe them.

        Raises:
            BadInput: the environments cannot be made with this rig.
            SlotsLost: a worker died or raised; see the class.
        """
        self._seeds.update(seeds)
        return self._call({slot: _Bound(reset_and_observe, seed) for slot, seed in seeds.items()})

    def step(self, chunks: Mapping[int, np.ndarray], *, stop_at_success: bool = True) -> dict[int, ChunkResult]:
        """Execute an action chunk, float (M, action_dim), in each of some slots.

        Args:
            stop_at_success: leave out the rest of a chunk once the task is a success. Post-training sets it to False:
                it may not learn from success, not even when an episode ends.

        Raises:
            SlotsLost: a worker died or raised; see the class.
            ValueError: a slot was not reset since the pool, or its worker, started.
        """
        if not chunks.keys() <= self._seeds.keys():
            raise ValueError(f"slots {sorted(chunks.keys() - self._seeds.keys())} were stepped before they were reset")
        return self._call({slot: _Bound(run_chunk, chunk, stop_at_success) for slot, chunk in chunks.items()})

    def replay(self, slot: int, seed: int, actions: np.ndarray, size: int) -> np.ndarray:
        """Run logged actions (T, action_dim) again from `seed` and film them, for people to look at.

        Returns:
            uint8 (T + 1, size, size, 3): before each action, and after the last.
        """
        self._seeds[slot] = seed
        return self._call({slot: _Bound(film_actions, seed, actions, size)})[slot]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def _start(self, slots: tuple[int, ...]) -> _Worker:
        process = SimulatorProcess(self._program)
        process.request([Call.make(self.tasks[slot], self._rig) for slot in slots])
        return _Worker(process, slots)

    def _call(self, calls: Mapping[int, _Bound[T]]) -> dict[int, T]:
        """Send every worker its slots' calls at once, then collect; report failures only after all have answered."""
        busy = [(i, [slot for slot in worker.slots if slot in calls]) for i, worker in enumerate(self._workers)]
        busy = [(i, slots) for i, slots in busy if slots]
        for i, slots in busy:
            worker = self._workers[i]
            worker.process.request([calls[slot].to(worker.slots.index(slot)) for slot in slots])
        results: dict[int, T] = {}
        failures: list[str] = []
        lost: set[int] = set()
        for i, slots in busy:
            try:
                results |= zip(slots, cast(list[T], self._workers[i].answers()), strict=True)
            except _SlotFailed as failure:
                at_fault = slots if failure.call is None else [slots[failure.call]]
                failures.append(self._describe(at_fault, failure))
                lost |= set(slots)
                self._restart(i)
        if failures:
            raise SlotsLost("\n".join(failures), frozenset(lost), results)
        return results

    def _restart(self, i: int) -> None:
        worker = self._workers[i]
        worker.stop()
        self._workers[i] = self._start(worker.slots)
        for slot in worker.slots:
            self._seeds.pop(slot, None)

    def _describe(self, slots: Sequence[int], failure: _SlotFailed) -> str:
        names = "; ".join(f"slot {slot}, task {self.tasks[slot]}, seed {self._seeds.get(slot)}" for slot in slots)
        return f"simulator: {names}{explain(str(failure))}\n  it printed last:\n{failure.printed}"


class _Bound(Generic[T]):
    """A function of an environment, and its arguments."""

    def __init__(self, function: Callable[Concatenate[Environment, P], T], *args: P.args, **kwargs: P.kwargs) -> None:
        self.to: Callable[[int], Call] = lambda environment: Call.on(environment, function, *args, **kwargs)


class _SlotFailed(Exception):
    """A call failed in a worker; `call` is its index in the request, None where that is not known."""

    def __init__(self, reason: str, call: int | None, printed: str) -> None:
        super().__init__(reason)
        self.call, self.printed = call, printed


class _Worker:
    """A process and its slots; environment i of the process is the i-th slot's."""

    def __init__(self, process: SimulatorProcess, slots: tuple[int, ...]) -> None:
        self.process, self.slots = process, slots
        self._made = False

    def answers(self) -> list[object]:
        """The values of the oldest request.

        Raises:
            BadInput, WorkerFailed: the environments cannot be made.
            _SlotFailed: a call failed, or the process died.
        """
        if not self._made:
            self._await_environments()
        try:
            return self.process.answers()
        except WorkerFailed as failure:
            raise _SlotFailed(failure.reason, failure.call, failure.printed) from failure
        except CallRefused as error:
            raise _SlotFailed(str(error), error.call, "nothing") from error

    def _await_environments(self) -> None:
        try:
            self.process.answers()
        except WorkerFailed as failure:
            if failure.call is not None:  # it says itself that it cannot make them: another would not fare better
                raise
            raise _SlotFailed(failure.reason, None, failure.printed) from failure
        self._made = True

    def stop(self) -> None:
        self.process.stop()


def reset_and_observe(environment: Environment, seed: int) -> Observation:
    """Runs in the worker; see `EnvironmentPool.reset`."""
    environment.reset(seed)
    return environment.observe()


def run_chunk(environment: Environment, chunk: np.ndarray, stop_at_success: bool) -> ChunkResult:
    """Runs in the worker; see `EnvironmentPool.step`."""
    actions = np.clip(np.asarray(chunk, np.float32), -1, 1)
    steps, success = 0, False
    while steps < len(actions) and not (success and stop_at_success):
        success |= environment.step(actions[steps])
        steps += 1
    return ChunkResult(environment.observe(), success, steps, actions[:steps])


def film_actions(environment: Environment, seed: int, actions: np.ndarray, size: int) -> np.ndarray:
    """Runs in the worker; see `EnvironmentPool.replay`."""
    environment.reset(seed)
    frames = [environment.render(size)]
    for action in actions:
        environment.step(action)
        frames.append(environment.render(size))
    return np.stack(frames)
