"""Demonstrations of a simulator's scripted experts, or recorded ones, and ingested ones: into artifacts/demos.

Four sets, disjoint by seed: `labelled` and `video_only` episodes (LeRobot v3), and the initial states of the sets
`post_training` and `test`. Ingested episodes join the training parts of the first two. Episodes come from several
processes and are written in an order, and with a content, that do not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from world2act.collection.ingested import KINDS, IngestedDataset
from world2act.collection.recorded import alignments, open_recorded, read_recorded
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.params import Camera, Demos
from world2act.core.seeds import derive
from world2act.core.tables import write_rows
from world2act.data.episodes import EncodedEpisode, Episode, encode
from world2act.data.initial_states import InitialStateRow
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.recording import ACTION, EXECUTED, PHASE, SCENE, STATE, check_recording, dataset_features
from world2act.sims.base import Environment, load_simulator
from world2act.sims.protocols import check_protocol
from world2act.sims.seeds import read_seed, set_seed

_ATTEMPTS = 10
_AFTER_SUCCESS = 4


@dataclass(frozen=True)
class Job:
    """One episode, or one initial state, to make. `seeds` are tried in order until the expert succeeds."""

    set: str
    task: str
    seeds: tuple[int, ...]
    demos: Demos


@dataclass
class Made:
    """What a job gave: an episode or, in a set of initial states, the scene; and how many attempts failed."""

    episode: EncodedEpisode | None
    initial_state: InitialStateRow | None
    failed: int


def plan(demos: Demos, base_seed: int, name: str) -> list[Job]:
    """The jobs of a set: tasks interleaved, attempt r of the i-th episode of a task at seed index i + r * n."""
    count = getattr(demos, f"{name}_per_task")
    return [
        Job(name, task, tuple(set_seed(base_seed, name, i + attempt * count) for attempt in range(_ATTEMPTS)), demos)
        for i in range(count)
        for task in demos.tasks
    ]


def make_demonstrations(
    demos: Demos, base_seed: int, workers: int, directory: Path, ingested: Sequence[IngestedDataset] = ()
) -> dict[str, Any]:
    """Fill `directory` with the four sets.

    Returns:
        Metrics: episodes, frames and mean length a set, the expert's failures, in all and by task, and how many
        ingested episodes there are and were left out.

    Raises:
        BadInput: unknown simulator, task or camera, or ingested episodes of other cameras or another embodiment.
        InfrastructureError: no renderer, blank frames, a dead process, or an expert that keeps failing.
    """
    simulator = load_simulator(demos.simulator)
    check_protocol(demos)
    for task in demos.tasks:
        if task not in simulator.TASKS:
            raise BadInput(
                "params.yaml", "demos.tasks", task, f"some of {sorted(simulator.TASKS)}", "correct the task's name"
            )
    if len(set(demos.tasks)) < len(demos.tasks):
        raise BadInput("params.yaml", "demos.tasks", demos.tasks, "every task once", "remove the repeated task")
    metrics: dict[str, Any] = {}
    failed: Counter[str] = Counter({task: 0 for task in demos.tasks})
    joined = {name: select_ingested(ingested, simulator, demos, base_seed, name) for name in KINDS}
    recorded = open_recorded(demos, simulator) if demos.recorded else {}
    dealt = 0
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name in KINDS:
            if recorded:
                episodes = read_recorded(recorded[name], name, demos, simulator, dealt)
                made = (Made(episode, None, 0) for episode in episodes)
                dealt += len(recorded[name])
            else:
                made = _run(pool, plan(demos, base_seed, name), name)
            lengths = _write_dataset(directory / name, simulator, demos, name, made, joined[name], failed)
            metrics |= {f"{name}_episodes": len(lengths), f"{name}_frames": sum(lengths)}
            metrics[f"{name}_mean_length"] = sum(lengths) / len(lengths)
        states = [
            made.initial_state
            for name in ("post_training", "test")
            for made in _run(pool, plan(demos, base_seed, name), name)
        ]
    write_rows(directory / "initial_states.parquet", InitialStateRow, filter(None, states))
    return metrics | {
        "initial_states": len(states),
        "expert_failures": failed.total(),
        "expert_failures_by_task": dict(failed),
        "ingested_episodes": sum(map(len, joined.values())),
        "ingested_left_out": sum(len(each.episodes) for each in ingested) - sum(map(len, joined.values())),
    }


def select_ingested(
    ingested: Sequence[IngestedDataset], simulator: Any, demos: Demos, base_seed: int, name: str
) -> list[tuple[EpisodeDataset, int]]:
    """The ingested episodes that join the training part of a set.

    Left out are tasks that are not in `demos.tasks`, and scenes that another set, or the part held out, may hold:
    what a policy is tested on is never what it was trained on.

    Raises:
        BadInput: a dataset was not recorded as the set is.
    """
    heldout = _planned_split(demos, name)["heldout"]
    heldout_seeds = {seed for job in plan(demos, base_seed, name)[heldout.start :] for seed in job.seeds}
    selected = []
    for each in ingested:
        if each.kind != name:
            continue
        check_recording(each.dataset, simulator, demos)
        for index in each.episodes:
            record = each.dataset.episodes[index]
            foreign = _set_of_seed(base_seed, record.seed) not in (None, name)
            if record.task in demos.tasks and not foreign and record.seed not in heldout_seeds:
                selected.append((each.dataset, index))
    return selected


def _set_of_seed(base_seed: int, seed: int) -> str | None:
    """The set of this pipeline whose scenes include `seed`."""
    base, name, _ = read_seed(seed)
    return name if base == base_seed else None


def _run(pool: ProcessPoolExecutor, jobs: Sequence[Job], name: str) -> Iterator[Made]:
    """Run the jobs of a set and yield their results in the order of the jobs."""
    console = Console(stderr=True)
    try:
        yield from track(pool.map(run_job, jobs), name, len(jobs), console=console, disable=not console.is_terminal)
    except BrokenProcessPool as error:
        raise InfrastructureError(
            f"demonstrations of set {name}\n  found:    a simulator process died"
            "\n  expected: every process alive to the end"
            "\n  remedy:   run the stage again, with fewer base.workers if memory ran out"
        ) from error


def run_job(job: Job) -> Made:
    """Make one episode or initial state, in this process."""
    demos = job.demos
    environment = _environment(demos.simulator, job.task, demos.cameras, demos.image_size, demos.settle_steps)
    if job.set in ("post_training", "test"):
        environment.reset(job.seeds[0])
        observation = environment.observe()
        scene = observation.scene.tolist()
        return Made(None, InitialStateRow(job.set, job.task, job.seeds[0], observation.instruction, scene), 0)
    for failed, seed in enumerate(job.seeds):
        episode = demonstrate(environment, seed, demos)
        if episode is not None:
            if job.set == "video_only":
                del episode.arrays[ACTION], episode.arrays[EXECUTED]
            return Made(encode(episode), None, failed)
    raise InfrastructureError(
        f"demonstrations of {job.task}\n  found:    the expert failed from each of the seeds {job.seeds}"
        f"\n  expected: success within demos.max_steps = {demos.max_steps}"
        "\n  remedy:   raise demos.max_steps, lower demos.action_noise, or leave the task out"
    )


def demonstrate(environment: Environment, seed: int, demos: Demos) -> Episode | None:
    """Let the expert act under noise from the scene of `seed`, until shortly after it has succeeded.

    The noise is held for some steps, so that the arm really strays and the expert's recovery is seen. The label
    of every state is the expert's clean action for it.

    Returns:
        The episode, or None where the expert did not succeed within `demos.max_steps`.
    """
    noise = np.random.default_rng(derive(seed, "action noise", environment.task.name))
    environment.reset(seed)
    observations, actions, executed, phases = [], [], [], []
    disturbance = np.zeros(environment.embodiment.action_dim)
    end = demos.max_steps
    for step in range(demos.max_steps + _AFTER_SUCCESS):
        if step >= end:
            break
        if step % demos.noise_steps == 0:
            disturbance = noise.normal(0, demos.action_noise, disturbance.shape)
        observations.append(environment.observe())
        actions.append(environment.expert_action())
        phases.append(environment.expert_phase())
        executed.append(np.clip(actions[-1] + disturbance, -1, 1).astype(np.float32))
        if environment.step(executed[-1]) and end == demos.max_steps:
            end = step + 1 + _AFTER_SUCCESS
    if end == demos.max_steps:
        return None
    images = {name: np.stack([o.images[name] for o in observations]) for name in observations[0].images}
    _check_frames_vary(environment.task.name, seed, images)
    arrays = {
        STATE: np.stack([o.proprio for o in observations]),
        SCENE: np.stack([o.scene for o in observations]),
        PHASE: np.array(phases, np.float32)[:, None],
        ACTION: np.stack(actions),
        EXECUTED: np.stack(executed),
    }
    return Episode(environment.task.name, environment.task.instruction, seed, images, arrays)


def _check_frames_vary(task: str, seed: int, images: dict[str, np.ndarray]) -> None:
    for camera, frames in images.items():
        still = int((frames[1:] == frames[:-1]).all(axis=(1, 2, 3)).sum())
        if still > len(frames) // 2:
            raise InfrastructureError(
                f"{task}, seed {seed}, {camera}\n  found:    {still} of {len(frames)} frames equal the one before"
                "\n  expected: pictures that follow the moving arm\n  remedy:   run the stage again in a fresh process"
            )


def _write_dataset(
    path: Path,
    simulator: Any,
    demos: Demos,
    name: str,
    made: Iterator[Made],
    joined: Sequence[tuple[EpisodeDataset, int]],
    failed: Counter[str],
) -> list[int]:
    """Write what was made for training, then what joins it, then what is held out. Returns: the episodes' lengths."""
    embodiment = simulator.EMBODIMENT
    extra = {
        "simulator": demos.simulator,
        "cameras": [camera.model_dump(mode="json") for camera in demos.cameras],
        "image_convention": simulator.IMAGE_CONVENTION,
        "prehensile": {task: simulator.TASKS[task].prehensile for task in demos.tasks},
        "set": name,
    }
    if demos.recorded:
        extra["recorded"] = alignments(demos)
    else:
        extra["renderer"] = simulator.RENDERER
        extra |= {key: getattr(demos, key) for key in ("settle_steps", "action_noise", "noise_steps", "max_steps")}
    split = _planned_split(demos, name)
    train, total = split["train"].stop + len(joined), split["heldout"].stop + len(joined)
    if joined:
        extra["ingested"] = f"{split['train'].stop}:{train}"
    path.mkdir()
    lengths: list[int] = []

    def add(episode: EncodedEpisode) -> None:
        writer.add(episode)
        lengths.append(episode.length)

    with DatasetWriter(
        path,
        features=dataset_features(simulator, demos, name),
        fps=embodiment.control_hz,
        robot_type=embodiment.name,
        extra=extra,
    ) as writer:
        for i, result in enumerate(made):
            assert result.episode is not None
            if i == split["heldout"].start:
                for dataset, index in joined:
                    add(_with_phase(dataset.encoded(index)))
            add(result.episode)
            failed[result.episode.task] += result.failed
        writer.set_splits({"train": range(train), "heldout": range(train, total)})
    return lengths


def _with_phase(episode: EncodedEpisode) -> EncodedEpisode:
    """An episode from outside has no expert to ask."""
    episode.arrays.setdefault(PHASE, np.full((episode.length, 1), -1, np.float32))
    return episode


def _planned_split(demos: Demos, name: str) -> dict[str, range]:
    return heldout_split(len(demos.tasks) * getattr(demos, f"{name}_per_task"), len(demos.tasks), demos.heldout_share)


def heldout_split(episodes: int, tasks: int, share: float) -> dict[str, range]:
    """The last `share` of the episodes, whole rounds of the interleaved tasks, is held out; both parts get a round."""
    rounds = episodes // tasks
    if rounds < 2:
        raise BadInput(
            "params.yaml", "demos", f"{rounds} episode a task", "at least 2: one to train on, one held out", "raise it"
        )
    first = episodes - tasks * min(max(round(rounds * share), 1), rounds - 1)
    return {"train": range(first), "heldout": range(first, episodes)}


@cache
def _environment(
    simulator: str, task: str, cameras: tuple[Camera, ...], image_size: int, settle_steps: int
) -> Environment:
    """One environment a task and process, for its whole life."""
    return load_simulator(simulator).make_environment(
        task, cameras=cameras, image_size=image_size, settle_steps=settle_steps
    )
