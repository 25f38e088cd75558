"""An installed package that adds a simulator, a policy family, a post-training method, a gate and two formats, as text.

Nothing in world2act names any of it: a profile selects it, and entry points find it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.helpers.paths import ROOT

ENTRY_POINTS = """\
[world2act.sims]
line = toy_package.line

[world2act.policies]
constant = toy_package.constant

[world2act.post_training]
nudge = toy_package.nudge

[world2act.gates]
notes = toy_package.notes

[world2act.formats.importers]
toy_reader = toy_package.reader

[world2act.formats.exporters]
toy_writer = toy_package.writer
"""
PROFILE = """\
# A simulator, a robot, a policy family, a post-training method and a gate of another package.
profile: toys
base: {ranks: 1, workers: 1}
demos:
  simulator: line
  tasks: [reach]
  cameras: [{name: front, position_m: null, fovy_deg: null, protocol: null}]
  image_size: 16
  settle_steps: 0
  max_steps: 8
  ingested: false
skills:
  contact:
    toy: {open_width_m: 0.05, threshold_m: 0.01, release_m: 0.005, min_frames: 2}
base_policy:
  family: constant
  check_episodes_per_task: 1
  constant: {start: 0.0}
  training: {steps: 2, batch_size: 2, warmup_steps: 1, checkpoint_every: 2}
post_train:
  method: nudge
  nudge: {aim: 0.5}
  training: {steps: 2, batch_size: 2, warmup_steps: 1, checkpoint_every: 2}
evaluate:
  policies: {rival: artifacts/rival}
  environments: 1
  max_steps: 8
  video_size: 16
gates:
  notes: {words: 2}
  base_policy: {success_gain: -1.0}
  post_train: {nudge: {distance: 0.6}}
"""
CONSTANT = '''
"""A policy that always does the same: one number, learnt from the demonstrations."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from world2act.core.params.section import Section
from world2act.core.storage import read_json, read_tensors, write_json, write_tensors

SUMMARY = "one constant action"


class Parameters(Section):
    start: float


class Constant(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.action = nn.Parameter(torch.tensor([start]))

    def forward(self, target):
        return (self.action - target).square().mean()


class Policy:
    chunk_length, action_dim, proprio_dim, cameras = 4, 2, 0, {}

    def __init__(self, action):
        self.action = action

    def predict(self, observations, seeds):
        return np.full((len(observations), 4, 2), np.clip(self.action, -1, 1), np.float32)


class Objective:
    reads = ""

    def __init__(self, start, target):
        self.model, self._target = Constant(start), target

    def batch(self, place):
        return torch.full((place.batch_size,), self._target)

    def loss(self, model, batch, place):
        return model(batch), {"action": self.model.action.detach().mean()}

    def save_policy(self, directory, weights):
        write_json(directory / "config.json", {"family": "constant", "chunk_length": 4, "action_dim": 2})
        action = weights["action"].numpy().reshape(1)
        write_tensors(directory / "model.safetensors", {"action": action})
        write_json(directory / "statistics.json", {"action": {"min": [-1, -1], "max": [1, 1]}})


def make_objective(params, dataset, chunks, seed):
    return Objective(params.block(Parameters).start, 1.0)


def from_pretrained(directory):
    return Policy(float(read_tensors(Path(directory) / "model.safetensors")["action"][0]))
'''
NUDGE = '''
"""Post-training that nudges a constant policy towards an action."""

from contextlib import contextmanager

import torch

from toy_package.constant import Objective
from world2act.core.params.section import Section
from world2act.core.storage import read_tensors
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import at_most
from world2act.post_training.description import Curve

SUMMARY = "nudged towards an action"
READS = ("demos", "base_policy")
HISTORY = (Curve("action", "The action", "nudged", first=True),)


class Parameters(Section):
    aim: float


class Limits(Section):
    distance: float


@contextmanager
def make_objective(params, artifacts):
    start = float(read_tensors(artifacts / "base_policy/model.safetensors")["action"][0])
    yield Objective(start, params.post_train.block(Parameters).aim)


def tables(artifacts, params):
    import pandas as pd

    limits = params.gates.post_train.block(Limits, params.post_train.method)
    action = float(read_tensors(artifacts / "post_train/model.safetensors")["action"][0])
    distance = abs(action - params.post_train.block(Parameters).aim)
    check = at_most("distance", limits.distance, "The action is near its aim.", remedy="train for longer")
    return [Table("aims", pd.DataFrame([{"action": action, "distance": distance}]), ("action",), [check])]
'''
NOTES = '''
"""The gate of artifacts/notes."""

import pandas as pd

from world2act.core.params.section import Section
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import at_least


class Limits(Section):
    words: int


def tables(artifacts, params):
    words = len((artifacts / "notes/notes.txt").read_text().split())
    limits = params.gates.block(Limits, "notes")
    check = at_least("words", limits.words, "The notes say something.", remedy="write more")
    return [Table("notes", pd.DataFrame([{"words": words}]), ("words",), [check])]
'''
READER = '''
"""Reads episodes without actions, one .npz file per episode."""

import numpy as np

from world2act.data.episodes import Episode
from world2act.formats.importers.recording import UPRIGHT, Recording

RECOGNISED = "one .npz file per episode"


def recognises(source):
    return all(name.endswith(".npz") for name in source.files)


def open_recording(source):
    names = {"observation.state": ["x_m"]}
    return Recording("toy_reader", 10, "toy", UPRIGHT, 0, names, len(source.files), _episodes(source))


def _episodes(source):
    for seed, name in enumerate(source.files):
        with source.open(name) as path, np.load(path) as file:
            arrays = {"observation.state": file["state"]}
            yield name, Episode("reach", "reach", seed, {"front": file["front"]}, arrays)
'''
WRITER = '''
"""Writes the length of every episode, one per line."""

FORMAT = "lengths"


def write(dataset, folder, subtasks, progress):
    (folder / "lengths.txt").write_text("".join(f"{length}\\n" for length in dataset.lengths))
'''


def install(folder: Path) -> None:
    """Write the package, as installed, into `folder`, which the caller puts on sys.path."""
    package, info = folder / "toy_package", folder / "toy_package-1.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (package / "__init__.py").write_text("")
    shutil.copy(ROOT / "tests/helpers/toy_simulator.py", package / "line.py")
    for name, text in (
        ("constant", CONSTANT),
        ("nudge", NUDGE),
        ("notes", NOTES),
        ("reader", READER),
        ("writer", WRITER),
    ):
        (package / f"{name}.py").write_text(text)


def write_profile(root: Path) -> None:
    """Add the profile that selects all of it to a copy of ours."""
    shutil.copytree(ROOT / "conf/profile", root / "conf/profile")
    (root / "conf/profile/toys.yaml").write_text(PROFILE)
