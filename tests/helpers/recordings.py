"""Uploads for the tests of ingest: real demonstrations by the simulator's expert, written as LeRobot v3.0 datasets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.helpers.paths import ROOT
from tests.helpers.rigs import record
from world2act.collection.form import dataset_features
from world2act.collection.ingested import INDEX, index_of
from world2act.core.params import Params, compose, parse_params
from world2act.core.storage import write_json
from world2act.data.episodes import Episode, encode
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.recording import PHASE
from world2act.sims.rig import Rig
from world2act.sims.simulator import load_simulator

SMALL = {
    "tasks": ["plate-slide"],
    "image_size": 32,
    "labelled_per_task": 2,
    "video_only_per_task": 2,
    "post_training_per_task": 1,
    "test_per_task": 1,
    "heldout_share": 0.5,
}
FIRST_SEED = 9_000_000  # beyond every set of the pipeline's own scenes


def values(**changes: Any) -> dict[str, Any]:
    """Parameters of a small pipeline."""
    composed = compose("default", ROOT)
    composed["demos"] |= SMALL | changes
    return composed


def params(**changes: Any) -> Params:
    return parse_params(values(**changes), "a test")


@cache
def recorded(seed: int) -> Episode:
    """One demonstration of the expert's."""
    demos = params().demos
    environment = load_simulator("metaworld").make_environment("plate-slide", Rig.from_params(demos))
    episode = record(environment, seed, demos)
    assert episode is not None
    return episode


def episodes(*numbers: int) -> list[Episode]:
    """Demonstrations by their numbers."""
    return [recorded(FIRST_SEED + number) for number in numbers]


def write_upload(
    path: Path, recordings: Sequence[Episode], *, video_only: bool = False, info: Mapping[str, Any] | None = None
) -> Path:
    """Write episodes as a robot's recorder would, which asks no expert; `info` overrides what stands in info.json."""
    demos, simulator = params().demos, load_simulator("metaworld")
    extra = {
        "cameras": [camera.model_dump(mode="json") for camera in demos.cameras],
        "image_convention": simulator.image_convention,
    }
    features = dataset_features(simulator, demos, "video_only" if video_only else "labelled")
    del features[PHASE]
    path.mkdir(parents=True)
    with DatasetWriter(path, features=features, fps=80, robot_type="sawyer", extra=extra) as writer:
        for episode in recordings:
            arrays = {k: v for k, v in episode.arrays.items() if k in features}
            writer.add(encode(replace(episode, arrays=arrays)))
        writer.set_splits({"train": range(len(recordings))})
    if info:
        declared = json.loads((path / "meta/info.json").read_text())
        write_json(path / "meta/info.json", declared | dict(info))
    return path


def overwrite(path: Path, **columns: np.ndarray) -> Path:
    """Put other numbers into the data of a dataset of one episode, such as no writer of ours would write."""
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        mask = pa.array(np.ma.getmaskarray(values).all(1))  # a row of which all is masked is null
        numbers = np.asarray(values, np.float32)
        flat = pa.FixedSizeListArray.from_arrays(numbers.ravel(), numbers.shape[1], mask=mask)
        table = table.set_column(place, name, flat)
    pq.write_table(table, file, row_group_size=len(table))
    return path


def files_of(path: Path) -> list[str]:
    """Relative names of all files of a dataset."""
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def make_workspace(path: Path, store: str) -> Path:
    """A git repository with DVC, parameters and the index of nothing ingested, as a fresh clone has them."""
    path.mkdir(parents=True)

    def run(*command: str) -> None:
        subprocess.run(command, cwd=path, check=True, capture_output=True)

    run("git", "init", "--quiet")
    run("git", "config", "user.name", "test")
    run("git", "config", "user.email", "test@localhost")
    (path / ".dvc").mkdir()  # what `dvc init` makes, without its second
    (path / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (path / ".dvc/config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {store}\n")
    (path / ".gitignore").write_text("/data/ingested/\n/runs/\n")
    (path / "params.yaml").write_text(yaml.safe_dump(values()))
    (path / "data").mkdir()
    write_json(path / INDEX, index_of([]))
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "a clone")
    return path
