"""The smallest workspace in which stages base_policy, post_train and evaluate run, and a server in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.helpers.paths import ROOT
from tests.helpers.repository import make_repository
from world2act.bridge.adapters import Bridge
from world2act.core.params import Params, compose, parse_params
from world2act.core.storage import write_json, write_parquet
from world2act.core.tables import schema_of
from world2act.data.chunks import ChunkDataset
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.initial_states import InitialStateRow
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.dataset import describe_robot
from world2act.policies.imitation import load_trainable
from world2act.sims.metaworld import EMBODIMENT, IMAGE_CONVENTION
from world2act.world_model.imagining.rollouts import RolloutRow

TASK, CAMERA, SIZE, CHUNK, CHANNELS = "window-open", "corner2", 64, 4, 16


def make_params(**base_policy: Any) -> Params:
    values = compose("tiny", ROOT)
    values["base"] |= {"ranks": 1, "workers": 1}
    values["demos"] |= {"tasks": [TASK], "image_size": SIZE, "settle_steps": 2, "max_steps": 8}
    values["base_policy"] |= {"chunk_length": CHUNK, "check_episodes_per_task": 1} | base_policy
    training = values["post_train"]["training"]
    training["deepspeed"] = str(ROOT / training["deepspeed"])
    training |= {"steps": 3, "batch_size": 2, "checkpoint_every": 1, "learning_rate": 1e-2, "warmup_steps": 1}
    values["post_train"]["residual"] |= {"updates_per_rollout": 1, "max_chunks": 2, "hard_ratio": 1.0, "layers": 1}
    values["evaluate"] |= {"environments": 2, "max_steps": 8, "videos_per_task": 1, "video_size": 16}
    params = parse_params(values, "params.yaml")
    Path("params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    return params


def make_workspace() -> None:
    """Write what these stages read into the current directory: two episodes of noise, an untrained bridge."""
    make_repository(Path())
    rng = np.random.default_rng(0)
    labelled = Path("artifacts/demos/labelled")
    labelled.mkdir(parents=True)
    features = {
        f"observation.images.{CAMERA}": image_feature(SIZE, SIZE),
        "observation.state": array_feature(EMBODIMENT.proprio_names),
        "action": array_feature(EMBODIMENT.action_names),
    }
    extra = {"image_convention": IMAGE_CONVENTION}
    options = {"fps": EMBODIMENT.control_hz, "robot_type": EMBODIMENT.name, "extra": extra}
    with DatasetWriter(labelled, features=features, **options) as writer:
        for seed in range(3):
            arrays = {name: rng.uniform(-1, 1, (6, 4)).astype(np.float32) for name in ("observation.state", "action")}
            images = {CAMERA: rng.integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)}
            writer.add(encode(Episode(TASK, "open the window", seed, images, arrays)))
        writer.set_splits({"train": range(2), "heldout": range(2, 3)})
    states = [
        {"set": name, "task": TASK, "seed": seed, "instruction": "open the window", "scene": [0.0]}
        for name, seeds in (("post_training", (5, 6)), ("test", (7,)))
        for seed in seeds
    ]
    write_parquet("artifacts/demos/initial_states.parquet", states, schema_of(InitialStateRow))
    torch.manual_seed(0)
    bridge = Bridge(latent_channels=CHANNELS, action_dim=4, dim=32)
    Path("artifacts/bridge").mkdir()
    bridge.save_pretrained(Path("artifacts/bridge"))
    rows = [
        {
            "rollout": i,
            "seed": seed,
            "task": TASK,
            "instruction": "open the window",
            "skill_index": 0,
            "prompt": "open",
            "offset": 3 * i,
            "latents": 3,
            "conditioning_latents": 1,
            "feedback": "frame",
            "world_model_sha256": "0" * 64,
        }
        for i, seed in enumerate((5, 6))
    ]
    write_parquet("artifacts/rollouts/rollouts.parquet", rows, schema_of(RolloutRow))
    np.save("artifacts/rollouts/latents.npy", rng.normal(size=(6, CHANNELS, 8, 8)).astype(np.float32))
    for name in ("demos", "rollouts", "bridge", "base_policy"):
        write_json(f"reports/gates/{name}.json", {"success": True, "expectations": [{"success": True}]})


def save_policy(folder: Path, **config: Any) -> None:
    """A policy for the robot of these demonstrations: its config.json, or an untrained network of it."""
    dataset = EpisodeDataset.open("artifacts/demos/labelled")
    folder.mkdir()
    if config:
        write_json(folder / "config.json", config)
    else:
        params = make_params(family="behaviour_cloning").base_policy
        chunks = ChunkDataset.load(dataset, dataset.splits["train"])
        objective = load_trainable(params.family).make_objective(params, dataset, chunks, 0)
        objective.save_policy(folder, objective.model.state_dict())
    describe_robot(dataset).write(folder)


def serve_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "world2act.cli", "serve", *map(str, arguments)]


@contextmanager
def serving(
    *arguments: str | Path, port: int = 0, place: Path | None = None, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`world2act serve` in a process of its own, in the folder `place`; yields it with the port it says it has."""
    process = subprocess.Popen(
        serve_command(*arguments, "--port", str(port)),
        cwd=place,
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        said = json.loads(process.stderr.readline())
        assert said["event"] == "listening", said
        yield process, said["port"]
    finally:
        process.kill()
        process.wait()
