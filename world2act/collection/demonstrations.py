"""Demonstrations by a simulator's scripted experts, or recorded ones, and ingested ones → artifacts/demos.

Four sets, disjoint by seed: `labelled` and `video_only` episodes (LeRobot v3), and the initial states of the sets
`post_training` and `test`. Ingested episodes join the training parts of the first two. Episodes come from several
processes; their order and content do not depend on how many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.collection.form import check_recording, dataset_features
from world2act.collection.ingested import KINDS, IngestedDataset
from world2act.collection.jobs import ExpertEpisode, Workers, plan
from world2act.collection.recorded import action_lags, open_recorded, read_recorded
from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.core.stage import Metrics
from world2act.core.tables import write_rows
from world2act.data.episodes import EncodedEpisode
from world2act.data.initial_states import InitialStateRow
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.recording import PHASE
from world2act.sims.checks import check_protocol, check_tasks
from world2act.sims.rig import Rig
from world2act.sims.scene_seeds import parse_scene_seed
from world2act.sims.simulator import Simulator


@dataclass(frozen=True)
class IngestedEpisode:
    """An episode of a dataset that was ingested."""

    dataset: EpisodeDataset
    index: int


def make_demonstrations(
    demos: Demos, base_seed: int, workers: int, directory: Path, ingested: Sequence[IngestedDataset] = ()
) -> Metrics:
    """Fill `directory` with the four sets.

    Returns:
        Metrics: episodes, frames and mean length per set; the expert's failures, in total and by task; and how many
        ingested episodes joined and how many were left out.

    Raises:
        BadInput: unknown simulator, task or camera, or ingested episodes of other cameras or another embodiment.
        InfrastructureError: no renderer, blank frames, a dead process, or an expert that keeps failing.
    """
    simulator = check_tasks(Rig.from_params(demos), demos.tasks)
    check_protocol(demos)
    if len(set(demos.tasks)) < len(demos.tasks):
        raise BadInput("params.yaml", "demos.tasks", demos.tasks, "every task once", "remove the repeated task")
    metrics: dict[str, float | int] = {}
    failed: Counter[str] = Counter({task: 0 for task in demos.tasks})
    joining = {name: select_ingested(ingested, simulator, demos, base_seed, name) for name in KINDS}
    recorded = open_recorded(demos, simulator) if demos.recorded else {}
    dealt = 0
    with Workers(demos, workers) as experts:
        for name in KINDS:
            episodes: Iterable[ExpertEpisode]
            if recorded:
                records = read_recorded(recorded[name], name, demos, simulator, dealt)
                episodes = (ExpertEpisode(record) for record in records)
                dealt += len(recorded[name])
            else:
                episodes = experts.demonstrate(plan(demos, base_seed, name), name)
            lengths = _write_dataset(directory / name, simulator, demos, name, episodes, joining[name], failed)
            metrics |= {f"{name}_episodes": len(lengths), f"{name}_frames": sum(lengths)}
            metrics[f"{name}_mean_length"] = sum(lengths) / len(lengths)
        states = [
            state for name in ("post_training", "test") for state in experts.observe(plan(demos, base_seed, name), name)
        ]
    write_rows(directory / "initial_states.parquet", InitialStateRow, states)
    joined = sum(map(len, joining.values()))
    return metrics | {
        "initial_states": len(states),
        "expert_failures": failed.total(),
        "expert_failures_by_task": dict(failed),
        "ingested_episodes": joined,
        "ingested_left_out": sum(len(source.episodes) for source in ingested) - joined,
    }


def select_ingested(
    ingested: Sequence[IngestedDataset], simulator: Simulator, demos: Demos, base_seed: int, name: str
) -> list[IngestedEpisode]:
    """The ingested episodes that join the training part of a set.

    Left out are tasks that are not in `demos.tasks`, and scenes that another set, or the held-out part, may contain:
    what a policy is tested on is never what it was trained on.

    Raises:
        BadInput: a dataset was not recorded as the set is.
    """
    heldout = _planned_split(demos, name)["heldout"]
    heldout_seeds = {seed for job in plan(demos, base_seed, name)[heldout.start :] for seed in job.seeds}
    selected = []
    for source in ingested:
        if source.kind != name:
            continue
        check_recording(source.dataset, simulator, demos)
        for index in source.episodes:
            record = source.dataset.episodes[index]
            scene = parse_scene_seed(record.seed)
            in_another_set = scene.base_seed == base_seed and scene.set != name
            if record.task in demos.tasks and not in_another_set and record.seed not in heldout_seeds:
                selected.append(IngestedEpisode(source.dataset, index))
    return selected


def _write_dataset(
    path: Path,
    simulator: Simulator,
    demos: Demos,
    name: str,
    episodes: Iterable[ExpertEpisode],
    joining: Sequence[IngestedEpisode],
    failed: Counter[str],
) -> list[int]:
    """Write the training episodes, then the ingested ones that join them, then the held-out ones.

    Args:
        failed: the expert's failures by task; those of these episodes are added.

    Returns:
        The episodes' lengths.
    """
    split = _planned_split(demos, name)
    train, total = split["train"].stop + len(joining), split["heldout"].stop + len(joining)
    extra = _describe_recording(simulator, demos, name)
    if joining:
        extra["ingested"] = f"{split['train'].stop}:{train}"
    path.mkdir()
    lengths: list[int] = []

    def add(episode: EncodedEpisode) -> None:
        writer.add(episode)
        lengths.append(episode.length)

    with DatasetWriter(
        path,
        features=dataset_features(simulator, demos, name),
        fps=simulator.embodiment.control_hz,
        robot_type=simulator.embodiment.name,
        extra=extra,
    ) as writer:
        for i, made in enumerate(episodes):
            if i == split["heldout"].start:
                for joined in joining:
                    add(_with_phase(joined.dataset.encoded(joined.index)))
            add(made.episode)
            failed[made.episode.task] += made.failed
        writer.set_splits({"train": range(train), "heldout": range(train, total)})
    return lengths


def _describe_recording(simulator: Simulator, demos: Demos, name: str) -> dict[str, object]:
    """What a dataset's info.json says under `world2act`."""
    described: dict[str, object] = {
        "simulator": demos.simulator,
        "cameras": [camera.model_dump(mode="json") for camera in demos.cameras],
        "image_convention": simulator.image_convention,
        "prehensile": {task: simulator.tasks[task].prehensile for task in demos.tasks},
        "set": name,
    }
    if demos.recorded:
        return described | {"recorded": action_lags(demos)}
    recipe = {key: getattr(demos, key) for key in ("settle_steps", "action_noise", "noise_steps", "max_steps")}
    return described | {"renderer": simulator.renderer} | recipe


def _with_phase(episode: EncodedEpisode) -> EncodedEpisode:
    """An ingested episode has no expert that knows its phase."""
    episode.arrays.setdefault(PHASE, np.full((episode.length, 1), -1, np.float32))
    return episode


def _planned_split(demos: Demos, name: str) -> dict[str, range]:
    count: int = getattr(demos, f"{name}_per_task")
    return heldout_split(len(demos.tasks) * count, len(demos.tasks), demos.heldout_share)


def heldout_split(episodes: int, tasks: int, share: float) -> dict[str, range]:
    """Hold out the last `share` of the episodes, in whole rounds of the interleaved tasks; each part gets a round."""
    rounds = episodes // tasks
    if rounds < 2:
        found, expected = f"{rounds} episode per task", "at least 2: one to train on, one held out"
        raise BadInput("params.yaml", "demos", found, expected, "raise it")
    first = episodes - tasks * min(max(round(rounds * share), 1), rounds - 1)
    return {"train": range(first), "heldout": range(first, episodes)}
