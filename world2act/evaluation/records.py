"""The episodes of an evaluation: one JSON file per episode, with everything that is needed to run it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from world2act.core.params import Params
from world2act.core.storage import file_stem, read_json, sha256, write_json
from world2act.evaluation.rollout import EpisodeResult
from world2act.policies.base import Policy
from world2act.sims.simulator import load_simulator


def describe_protocol(params: Params, policy: Policy, directory: Path | None) -> dict[str, object]:
    """Everything needed to run the same evaluation again. `directory`: of the saved policy, None for the random one."""
    demos, protocol = params.demos, params.demos.cameras[0].protocol
    simulator = load_simulator(demos.simulator)
    described = simulator.describe()
    saved: dict[str, object] = {"family": "random"}
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


def write_episodes(directory: Path, results: Sequence[EpisodeResult], protocol: Mapping[str, object]) -> None:
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
    """Episodes as named arrays, for safetensors: their actions, and everything else about them as JSON bytes."""
    rows = [asdict(result) for result in results]
    actions = {f"actions.{i}": row.pop("actions") for i, row in enumerate(rows)}
    return {"episodes": np.frombuffer(json.dumps(rows).encode(), np.uint8), **actions}


def episodes_from_arrays(arrays: Mapping[str, np.ndarray]) -> list[EpisodeResult]:
    """The inverse of `episodes_to_arrays`."""
    rows = json.loads(arrays["episodes"].tobytes())
    return [EpisodeResult(actions=arrays[f"actions.{i}"], **row) for i, row in enumerate(rows)]
