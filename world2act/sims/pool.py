"""Many environments over several processes: post-training, the base policy's check and evaluation step them together.

A slot is one environment of one task, for the life of the pool. Only what a policy needs crosses between the
processes: an action chunk goes in, one observation comes out.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from world2act.core.errors import InfrastructureError, World2ActError
from world2act.sims.base import Environment, Observation, load_simulator


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
    """A process died or raised.

    Attributes:
        slots: the slots of the call that ran in it; no result of theirs is known.
        results: what the call gave for the other slots.
    """

    def __init__(self, message: str, slots: frozenset[int], results: dict[int, Any]) -> None:
        super().__init__(message)
        self.slots, self.results = slots, results


class EnvironmentPool:
    """Slots spread over `workers` processes; a context manager.

    A process that dies or raises makes the call end with `SlotsLost`, after every other process has answered. It is
    then started anew: all of its slots must be reset before they are stepped again, the others go on.

    Args:
        simulator: a module of `world2act.sims`.
        tasks_of_slots: the task of each slot.
        workers: processes, at most one a slot.
        environment_options: passed to the simulator's `make_environment`.

    Raises:
        BadInput: there is no such simulator.
    """

    def __init__(
        self, simulator: str, tasks_of_slots: Sequence[str], *, workers: int, **environment_options: Any
    ) -> None:
        load_simulator(simulator)  # a wrong name is said once here, not by every process
        self.tasks = tuple(tasks_of_slots)
        self._simulator, self._options = simulator, environment_options
        self._seeds: dict[int, int] = {}
        self._workers = [self._start(worker) for worker in self._shares(min(workers, len(self.tasks)))]

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self, seeds: Mapping[int, int]) -> dict[int, Observation]:
        """Reset slots, each to its own seed, and observe them.

        Raises:
            SlotsLost: a process died or raised; see the class.
        """
        self._seeds.update(seeds)
        return self._call("reset", seeds)

    def step(self, chunks: Mapping[int, np.ndarray], *, stop_at_success: bool = True) -> dict[int, ChunkResult]:
        """Execute an action chunk, float (M, action_dim), in each of some slots.

        Args:
            stop_at_success: leave the rest of a chunk once the task is a success. Post-training sets it to False:
                it may not learn from success, not even when an episode ends.

        Raises:
            SlotsLost: a process died or raised; see the class.
            ValueError: a slot was not reset since the pool, or its process, started.
        """
        if not chunks.keys() <= self._seeds.keys():
            raise ValueError(f"slots {sorted(chunks.keys() - self._seeds.keys())} were stepped before they were reset")
        return self._call("step", {slot: (chunk, stop_at_success) for slot, chunk in chunks.items()})

    def replay(self, slot: int, seed: int, actions: np.ndarray, size: int) -> np.ndarray:
        """Run logged actions (T, action_dim) again from `seed` and film them, for people to look at.

        Returns:
            uint8 (T + 1, size, size, 3): before each action, and after the last.
        """
        self._seeds[slot] = seed
        return self._call("replay", {slot: (seed, actions, size)})[slot]

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def _shares(self, count: int) -> list[tuple[int, ...]]:
        return [tuple(range(first, len(self.tasks), count)) for first in range(count)]

    def _start(self, slots: tuple[int, ...]) -> _Worker:
        return _Worker(slots, self._simulator, {slot: self.tasks[slot] for slot in slots}, self._options)

    def _call(self, command: str, arguments: Mapping[int, Any]) -> dict[int, Any]:
        """Send every process its slots' arguments at once, then collect; report faults only after all answered."""
        results: dict[int, Any] = {}
        faults: list[str] = []
        lost: set[int] = set()
        busy = []
        for i, worker in enumerate(self._workers):
            share = {slot: arguments[slot] for slot in worker.slots if slot in arguments}
            if share:
                busy.append((i, share))
                worker.send((command, share))
        for i, share in busy:
            try:
                results |= self._workers[i].receive()
            except _WorkerFault as fault:
                faults.append(self._describe(share, fault))
                lost |= share.keys()
                self._workers[i].stop()
                self._workers[i] = self._start(self._workers[i].slots)
                for slot in self._workers[i].slots:
                    self._seeds.pop(slot, None)
        if faults:
            raise SlotsLost("\n".join(faults), frozenset(lost), results)
        return results

    def _describe(self, slots: Iterable[int], fault: _WorkerFault) -> str:
        concerned = [fault.slot] if fault.slot is not None else list(slots)
        names = "; ".join(f"slot {slot}, task {self.tasks[slot]}, seed {self._seeds.get(slot)}" for slot in concerned)
        return (
            f"simulator: {names}\n  found:    {fault}\n  expected: an answer"
            "\n  remedy:   run again; fewer base.workers if memory ran out"
        )


class _WorkerFault(Exception):
    def __init__(self, message: str, slot: int | None = None) -> None:
        super().__init__(message)
        self.slot = slot


class _Worker:
    """One process and the connection to it."""

    def __init__(self, slots: tuple[int, ...], simulator: str, tasks: dict[int, str], options: dict[str, Any]) -> None:
        self.slots = slots
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, simulator, tasks, options), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # `receive` reports the dead process
            self._connection.send(message)

    def receive(self) -> dict[int, Any]:
        try:
            outcome, slot, value = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(timeout=5)
            raise _WorkerFault(f"its process died, exit code {self._process.exitcode}") from error
        if outcome == "error":
            raise _WorkerFault(value, slot)
        return value

    def stop(self) -> None:
        self._connection.close()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, simulator: str, tasks: dict[int, str], options: dict[str, Any]) -> None:
    """The life of a worker process: one environment a slot, commands until the pipe closes."""
    slot: int | None = None
    try:
        module = load_simulator(simulator)
        environments = {slot: module.make_environment(task, **options) for slot, task in tasks.items()}
        while True:
            slot = None
            command, arguments = connection.recv()
            results = {}
            for slot, argument in arguments.items():
                results[slot] = _COMMANDS[command](environments[slot], argument)
            connection.send(("result", None, results))
    except EOFError:
        return
    except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    except World2ActError as error:
        connection.send(("error", slot, str(error)))
    except Exception as error:
        connection.send(("error", slot, f"{type(error).__name__}: {error}"))


def _reset(environment: Environment, seed: int) -> Observation:
    environment.reset(seed)
    return environment.observe()


def _step(environment: Environment, argument: tuple[np.ndarray, bool]) -> ChunkResult:
    chunk, stop_at_success = argument
    actions = np.clip(np.asarray(chunk, np.float32), -1, 1)
    steps, success = 0, False
    while steps < len(actions) and not (success and stop_at_success):
        success |= environment.step(actions[steps])
        steps += 1
    return ChunkResult(environment.observe(), success, steps, actions[:steps])


def _replay(environment: Environment, argument: tuple[int, np.ndarray, int]) -> np.ndarray:
    seed, actions, size = argument
    environment.reset(seed)
    frames = [environment.render(size)]
    for action in actions:
        environment.step(action)
        frames.append(environment.render(size))
    return np.stack(frames)


_COMMANDS: dict[str, Callable[[Environment, Any], Any]] = {"reset": _reset, "step": _step, "replay": _replay}
