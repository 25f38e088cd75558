"""What an evaluation leaves behind: one JSON an episode with the whole protocol, a summary, a table for plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from world2act.core.params import Params
from world2act.core.storage import atomic_file, file_stem, read_json, sha256, write_json
from world2act.evaluation.rollout import EpisodeResult
from world2act.evaluation.statistics import Difference, not_worse, paired_difference, wilson
from world2act.policies.base import Policy
from world2act.sims.simulator import load_simulator

Results = Mapping[str, Sequence[EpisodeResult]]


def describe_protocol(params: Params, policy: Policy, directory: Path | None) -> dict[str, Any]:
    """All that is needed to run the same evaluation again. `directory` is the saved policy, None for the random one."""
    demos, protocol = params.demos, params.demos.cameras[0].protocol
    simulator = load_simulator(demos.simulator)
    described = simulator.describe()
    saved = {"family": "random"}
    if directory:
        saved = {"sha256": sha256(directory), "config": read_json(directory / "config.json")}
    return {
        "simulator": demos.simulator,
        **described,
        "packages": described["packages"] | {"torch": version("torch")},
        "published": asdict(simulator.evaluation_protocols[protocol]) if protocol else None,
        "embodiment": simulator.embodiment.name,
        "control_hz": simulator.embodiment.control_hz,
        "cameras": [camera.model_dump(mode="json") for camera in demos.cameras],
        "image_size": demos.image_size,
        "image_convention": simulator.image_convention,
        "settle_steps": demos.settle_steps,
        "max_steps": params.evaluate.max_steps,
        "chunk_length": policy.chunk_length,
        "execution": "every chunk open loop to its end, or to the success",
        "success": "as soon as the simulator reports it",
        "noise": "seeded by the episode's seed and the chunk's number",
        "policy": saved,
    }


def write_episodes(directory: Path, results: Sequence[EpisodeResult], protocol: Mapping[str, Any]) -> None:
    """Write `<task>-<seed>.json` for each episode of one policy."""
    for result in results:
        episode = {
            "task": result.task,
            "seed": result.seed,
            "success": result.success,
            "steps": result.steps,
            "error": result.error,
            "actions": result.actions.tolist(),
            "protocol": protocol,
        }
        write_json(directory / f"{file_stem(result.task)}-{result.seed}.json", episode)


def episodes_to_arrays(results: Iterable[EpisodeResult]) -> dict[str, np.ndarray]:
    """Episodes as named arrays, for safetensors: the actions of each, and what else is known of them as JSON bytes."""
    rows = [asdict(result) for result in results]
    actions = {f"actions.{i}": row.pop("actions") for i, row in enumerate(rows)}
    return {"episodes": np.frombuffer(json.dumps(rows).encode(), np.uint8), **actions}


def episodes_from_arrays(arrays: Mapping[str, np.ndarray]) -> list[EpisodeResult]:
    """The inverse of `episodes_to_arrays`."""
    rows = json.loads(arrays["episodes"].tobytes())
    return [EpisodeResult(actions=arrays[f"actions.{i}"], **row) for i, row in enumerate(rows)]


def summarise(results: Results, confidence: float, *, incumbent: str, candidate: str) -> dict[str, Any]:
    """Success by policy and task with Wilson intervals, the paired difference, and whether to promote the candidate.

    Episodes with an infrastructure error are counted apart and enter no rate; a pair with one in it enters no
    difference.
    """
    policies = {
        policy: {
            "pooled": _rate(episodes, confidence),
            "tasks": {task: _rate([e for e in episodes if e.task == task], confidence) for task in _tasks(episodes)},
            "errors": sum(e.success is None for e in episodes),
        }
        for policy, episodes in results.items()
    }
    pairs = _pairs(results[candidate], results[incumbent])
    pooled = paired_difference(*_columns(pairs.values()), confidence)
    tasks = _tasks(results[candidate])
    of_task = {task: _columns(pair for key, pair in pairs.items() if key[0] == task) for task in tasks}
    by_task = {task: asdict(paired_difference(*columns, confidence)) for task, columns in of_task.items()}
    return {
        "confidence": confidence,
        "policies": policies,
        "difference": {"candidate": candidate, "incumbent": incumbent, "pooled": asdict(pooled), "tasks": by_task},
        "promotion": _promotion(pairs.values(), pooled, confidence),
    }


def write_success_table(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the rates as csv: task, policy, success, low, high."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["task", "policy", "success", "low", "high"])
        for policy, figures in summary["policies"].items():
            for task, rate in [*figures["tasks"].items(), ("all", figures["pooled"])]:
                writer.writerow([task, policy, *(round(rate[key], 4) for key in ("rate", "low", "high"))])


def _rate(episodes: Sequence[EpisodeResult], confidence: float) -> dict[str, Any]:
    counted = [episode.success for episode in episodes if episode.success is not None]
    return asdict(wilson(sum(counted), len(counted), confidence))


def _tasks(episodes: Sequence[EpisodeResult]) -> list[str]:
    return list(dict.fromkeys(episode.task for episode in episodes))


def _pairs(first: Sequence[EpisodeResult], second: Sequence[EpisodeResult]) -> dict[tuple[str, int], tuple[bool, bool]]:
    """(task, seed) → both successes, where neither episode had an error."""
    other = {(e.task, e.seed): e.success for e in second}
    successes = {(e.task, e.seed): (e.success, other[e.task, e.seed]) for e in first}
    return {key: (one, two) for key, (one, two) in successes.items() if one is not None and two is not None}


def _columns(pairs: Any) -> tuple[list[bool], list[bool]]:
    rows = list(pairs)
    return [first for first, _ in rows], [second for _, second in rows]


def _promotion(pairs: Any, pooled: Difference, confidence: float) -> dict[str, Any]:
    if not pooled.count:
        return {"promote": False, "reason": "no pair of episodes without an infrastructure error"}
    promote = not_worse(*_columns(pairs), confidence)
    verdict = "not worse" if promote else "worse"
    interval = f"{confidence:.0%} interval {pooled.low:+.3f} to {pooled.high:+.3f}, {pooled.count} pairs"
    reason = (
        f"{verdict} than the incumbent beyond the interval of the difference ({pooled.difference:+.3f}, {interval})"
    )
    return {"promote": promote, "reason": reason}
