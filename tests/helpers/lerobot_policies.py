"""Untrained policies of every family, as the stages save them, with what they predict here: for LeRobot's environment.

`expected.npz` beside a policy's folder, NAME/expected.npz for NAME/policy:

    images.CAMERA   uint8 (B, H, W, 3)
    state           float32 (B, P)
    task            str (B,)
    actions         float32 (B, M, A), with the seeds `derive(SEED, "noise", 0, row)`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.helpers.paths import ROOT
from world2act.bridge.adapters import Bridge
from world2act.core.params import BasePolicy, Tokenizer, compose
from world2act.core.seeds import derive
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import load_policy
from world2act.policies.dataset import describe_robot
from world2act.policies.imitation import make_objective
from world2act.policies.lerobot import write_lerobot
from world2act.post_training.residual.model import ResidualModel
from world2act.post_training.residual.policy import ResidualPolicy
from world2act.sims.base import Observation
from world2act.world_model.parts.text import make_text_encoder
from world2act.world_model.parts.tokenizer import make_vae

CAMERAS, SIDE, CHUNK, SEED = ("front", "hand"), 64, 4, 5
JOINTS = ["shoulder.pos", "elbow.pos", "gripper.pos"]
INSTRUCTIONS = ("push the cup", "lift the lid")
SMALL = {
    "gr00t": {},
    "behaviour_cloning": {"channels": [16, 16], "dim": 32, "layers": 1, "heads": 2},
    "cosmos_policy": {"heads": 2, "head_dim": 16, "layers": 1, "adaln_lora_dim": 4, "text_length": 8},
}


def make_policies(root: Path) -> None:
    """Fill `root` with one folder a family: those of SMALL, and `residual`."""
    dataset = _demonstrations(root / "labelled")
    _tokenizer(root / "tokenizer")
    for family, block in SMALL.items():
        values = compose("default", ROOT)["base_policy"] | {"family": family, "chunk_length": CHUNK}
        values[family] |= block
        values["cosmos_policy"]["tokenizer"] = str(root / "tokenizer")
        objective, _ = make_objective(BasePolicy.model_validate(values), dataset, seed=0)
        folder = root / family / "policy"
        folder.mkdir(parents=True)
        objective.save_policy(folder, objective.model.state_dict())
        _finish(folder, dataset)
    torch.manual_seed(0)
    bridge = Bridge(latent_channels=16, action_dim=len(JOINTS), dim=32)
    model = ResidualModel(bridge, proprio_dim=len(JOINTS), image_size=SIDE, layers=1, heads=2)
    for parameter in model.parameters():  # an untrained residual adds nothing
        torch.nn.init.normal_(parameter, std=0.1)
    base = root / "behaviour_cloning/policy"
    zeros, ones = torch.zeros(len(JOINTS)), torch.ones(len(JOINTS))
    folder = root / "residual/policy"
    folder.mkdir(parents=True)
    ResidualPolicy(load_policy(base), model.eval(), "front", zeros, ones).save_pretrained(folder, base)
    _finish(folder, dataset)


def _demonstrations(directory: Path) -> EpisodeDataset:
    generator = np.random.default_rng(0)
    features = {f"observation.images.{camera}": image_feature(SIDE, SIDE) for camera in CAMERAS}
    features |= {"observation.state": array_feature(JOINTS), "action": array_feature(JOINTS)}
    extra = {"image_convention": "upright"}
    with DatasetWriter(directory, features=features, fps=10, robot_type="arm", extra=extra) as writer:
        for index, instruction in enumerate(INSTRUCTIONS):
            arrays = {
                key: generator.uniform(-1, 1, (6, len(JOINTS))).astype(np.float32)
                for key in ("observation.state", "action")
            }
            images = {c: generator.integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8) for c in CAMERAS}
            writer.add(encode(Episode("task", instruction, index, images, arrays)))
        writer.set_splits({"train": range(2), "heldout": range(2, 2)})
    return EpisodeDataset.open(directory)


def _tokenizer(directory: Path) -> None:
    params = Tokenizer.model_validate(compose("default", ROOT)["tokenizer"] | {"base_dim": 8})
    make_vae(params, seed=0).save_pretrained(directory / "vae")
    make_text_encoder(INSTRUCTIONS, 16, 1, 8, seed=0).save(directory)


def _finish(folder: Path, dataset: EpisodeDataset) -> None:
    describe_robot(dataset).write(folder)
    write_lerobot(folder)
    generator = np.random.default_rng(1)
    count = len(INSTRUCTIONS)
    images = {c: generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8) for c in CAMERAS}
    state = generator.uniform(-1, 1, (count, len(JOINTS))).astype(np.float32)
    observations = [
        Observation({c: images[c][row] for c in CAMERAS}, state[row], INSTRUCTIONS[row], np.zeros(0, np.float32))
        for row in range(count)
    ]
    actions = load_policy(folder).predict(observations, [derive(SEED, "noise", 0, row) for row in range(count)])
    arrays = {f"images.{camera}": value for camera, value in images.items()}
    np.savez(folder.parent / "expected.npz", **arrays, state=state, task=np.array(INSTRUCTIONS), actions=actions)
