"""The episodes and initial states that a simulator has to make, and the workers that make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import track

from world2act.collection.expert import Demonstration, ExpertSettings, demonstrate
from world2act.core.errors import InfrastructureError
from world2act.core.params import Demos
from world2act.data.episodes import EncodedEpisode, Episode, encode
from world2act.data.initial_states import InitialStateRow
from world2act.data.recording import ACTION, EXECUTED, PHASE, SCENE, STATE
from world2act.sims.base import Observation, Task
from world2act.sims.pool import reset_and_observe
from world2act.sims.process import ProcessEnvironment, SimulatorProcess
from world2act.sims.rig import Rig
from world2act.sims.scene_seeds import scene_seed
from world2act.sims.simulator import WorkerProgram, load_simulator

_ATTEMPTS = 10
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One episode, or one initial state, to make. An expert tries the seeds in order until it succeeds."""

    set: str
    task: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ExpertEpisode:
    """An expert's episode, and how many seeds it failed from before."""

    episode: EncodedEpisode
    failed: int = 0


def plan(demos: Demos, base_seed: int, set_name: str) -> list[Job]:
    """The jobs of a set: tasks interleaved; attempt r of a task's i-th episode of n has the seed index i + r * n."""
    count: int = getattr(demos, f"{set_name}_per_task")
    return [
        Job(set_name, task, tuple(scene_seed(base_seed, set_name, i + attempt * count) for attempt in range(_ATTEMPTS)))
        for i in range(count)
        for task in demos.tasks
    ]


class Workers:
    """Simulator processes that make episodes and initial states; a context manager.

    Each makes the environment of a task once, when it first needs it.
    """

    def __init__(self, demos: Demos, count: int) -> None:
        self._rig = Rig.from_params(demos)
        self._settings = expert_settings(demos)
        self._count = count
        self._idle: SimpleQueue[_Worker] = SimpleQueue()

    def __enter__(self) -> Self:
        program = load_simulator(self._rig.simulator).worker()
        with ExitStack() as stack:
            self._threads = stack.enter_context(ThreadPoolExecutor(self._count, "expert"))
            for _ in range(self._count):  # here: a process ends with the thread that started it
                worker = _Worker(program, self._rig)
                stack.callback(worker.stop)
                self._idle.put(worker)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._stack.close()

    def demonstrate(self, jobs: Sequence[Job], name: str) -> Iterator[ExpertEpisode]:
        """Have experts act, and yield their episodes in the order of the jobs.

        Raises:
            InfrastructureError: no renderer, blank frames, a dead process, or an expert that keeps failing.
        """
        yield from _track(self._threads.map(self._demonstrate, jobs), name, len(jobs))

    def observe(self, jobs: Sequence[Job], name: str) -> Iterator[InitialStateRow]:
        """Look at initial states, and yield them in the order of the jobs.

        Raises:
            InfrastructureError: no renderer, blank frames, or a dead process.
        """
        yield from _track(self._threads.map(self._observe, jobs), name, len(jobs))

    def _demonstrate(self, job: Job) -> ExpertEpisode:
        worker = self._idle.get()
        try:
            environment = worker.environment(job.task)
            for failed, seed in enumerate(job.seeds):
                demonstration = environment.run(demonstrate, seed, self._settings)
                if demonstration is not None:
                    episode = to_episode(environment.task, seed, demonstration, video_only=job.set == "video_only")
                    return ExpertEpisode(encode(episode), failed)
        finally:
            self._idle.put(worker)
        raise InfrastructureError(
            f"demonstrations of {job.task}\n  found:    the expert failed from each of the seeds {job.seeds}"
            f"\n  expected: success within demos.max_steps = {self._settings.max_steps}"
            "\n  remedy:   raise demos.max_steps, lower demos.action_noise, or leave the task out"
        )

    def _observe(self, job: Job) -> InitialStateRow:
        worker = self._idle.get()
        try:
            seen: Observation = worker.environment(job.task).run(reset_and_observe, job.seeds[0])
        finally:
            self._idle.put(worker)
        return InitialStateRow(job.set, job.task, job.seeds[0], seen.instruction, seen.scene.tolist())


class _Worker:
    def __init__(self, program: WorkerProgram, rig: Rig) -> None:
        self._process, self._rig = SimulatorProcess(program), rig
        self._environments: dict[str, ProcessEnvironment] = {}

    def environment(self, task: str) -> ProcessEnvironment:
        if task not in self._environments:
            self._environments[task] = self._process.make_environment(task, self._rig)
        return self._environments[task]

    def stop(self) -> None:
        self._process.stop()


def expert_settings(demos: Demos) -> ExpertSettings:
    return ExpertSettings(demos.action_noise, demos.noise_steps, demos.max_steps)


def to_episode(task: Task, seed: int, demonstration: Demonstration, *, video_only: bool) -> Episode:
    """A demonstration as it is recorded; a video-only one without its actions."""
    arrays = {STATE: demonstration.proprio, SCENE: demonstration.scene, PHASE: demonstration.phase}
    if not video_only:
        arrays |= {ACTION: demonstration.action, EXECUTED: demonstration.executed}
    return Episode(task.name, task.instruction, seed, demonstration.images, arrays)


def _track(results: Iterator[T], name: str, count: int) -> Iterator[T]:
    console = Console(stderr=True)
    yield from track(results, name, count, console=console, disable=not console.is_terminal)
