"""The behaviour-cloning family, and how a family joins: through the contract, without an edit elsewhere."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy, compose, parse_params
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import Policy, load_policy
from world2act.policies.behaviour_cloning.network import PixelNorm, _spatial_softmax
from world2act.policies.imitation import make_objective
from world2act.sims.base import Observation
from world2act.training.objective import BatchPosition, epoch_indices

SIDE, CHUNK = 32, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    """Where a bright square stands, and which of two words is said, give the action."""
    directory, generator = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    features = {
        "observation.images.front": image_feature(SIDE, SIDE),
        "observation.state": array_feature(["a", "b"]),
        "action": array_feature(["x", "y", "z"]),
    }
    positions = generator.integers(4, SIDE - 8, (80, 1, 2))  # each with both words, so that neither can be left out
    with DatasetWriter(directory, features=features, fps=10, robot_type="arm", extra={}) as writer:
        for index in range(160):
            length, word = 3, index % 2
            position = np.repeat(positions[index // 2], length, axis=0)
            frames = np.zeros((length, SIDE, SIDE, 3), np.uint8)
            for frame, (y, x) in zip(frames, position, strict=True):
                frame[y : y + 4, x : x + 4] = 255
            seen = (position - 14) / 10 * (1 if word else -1)
            actions = np.concatenate([seen, np.full((length, 1), 0.25)], 1).astype(np.float32)
            arrays = {"observation.state": generator.normal(size=(length, 2)).astype(np.float32), "action": actions}
            writer.add(encode(Episode("task", ("push it", "pull it")[word], index, {"front": frames}, arrays)))
        writer.set_splits({"train": range(160), "heldout": range(160, 160)})
    return EpisodeDataset.open(directory)


def section(**changes: object) -> BasePolicy:
    values = compose("default", ROOT)["base_policy"] | {"family": "behaviour_cloning", "chunk_length": CHUNK}
    dropout = {"proprio_dropout": 0.3, "map_dropout": 0.1}
    values["behaviour_cloning"] = {"channels": [16, 16], "dim": 32, "layers": 1, "heads": 2, **dropout}
    return BasePolicy.model_validate(values | changes)


def trained(dataset: EpisodeDataset, steps: int) -> tuple[object, list[float]]:
    objective, _ = make_objective(section(), dataset, seed=0)
    optimizer, losses = torch.optim.AdamW(objective.model.parameters(), 3e-3), []
    for step in range(steps):
        position = BatchPosition.of(0, step, 32)
        torch.manual_seed(position.seeds[0])  # as the training loop does, for dropout
        loss, _ = objective.loss(objective.model, objective.batch(position), position)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return objective, losses


def observation(y: int, x: int, instruction: str) -> Observation:
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[y : y + 4, x : x + 4] = 255
    return Observation({"front": frame}, np.zeros(2, np.float32), instruction, np.zeros(0, np.float32))


def test_spatial_softmax_reads_where_a_channel_is_bright() -> None:
    maps = torch.zeros(1, 2, 5, 9)
    maps[0, 0, 1, 8] = maps[0, 1, 4, 2] = 50.0
    torch.testing.assert_close(_spatial_softmax(maps), torch.tensor([[1.0, -0.5, -0.5, 1.0]]))


def test_a_faint_object_is_normalised_where_it_stands() -> None:
    maps = torch.randn(2, 8, 5, 7)
    maps[..., 2, 3] *= 100  # a strong pixel changes no other
    other = maps.clone()
    other[..., 2, 3] = 0
    normed, without = PixelNorm(8)(maps), PixelNorm(8)(other)
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 5, 7), atol=1e-5, rtol=0)
    same = torch.ones(5, 7, dtype=torch.bool)
    same[2, 3] = False
    assert torch.equal(normed[..., same], without[..., same])


def test_some_samples_go_without_proprioception(dataset: EpisodeDataset) -> None:
    objective, chunks = make_objective(section(), dataset, seed=0)
    position = BatchPosition.of(0, 0, 256)
    batch = objective.batch(position)
    measured = objective.statistics["observation.state"].normalise(chunks.proprio)
    known = torch.from_numpy(measured)[epoch_indices(len(chunks), position, 0)]
    hidden = (batch.proprio == 0).all(1)
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(batch.proprio[~hidden], known[~hidden])


def test_the_same_training_gives_the_same_files(dataset: EpisodeDataset, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        objective, _ = trained(dataset, 8)
        objective.save_policy(tmp_path / name, objective.model.state_dict())
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.*")})
    assert written[0] == written[1]


def test_learns_from_pictures_and_words(dataset: EpisodeDataset, tmp_path: Path) -> None:
    objective, losses = trained(dataset, 400)
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])
    objective.save_policy(tmp_path, objective.model.state_dict())
    policy = load_policy(tmp_path)
    assert isinstance(policy, Policy)
    right, left = (policy.predict([observation(14, x, "pull it")], [0])[0, 0, 1] for x in (22, 6))
    said_else = policy.predict([observation(14, 22, "push it")], [1])[0, 0, 1]
    assert right > left + 0.2 and right > said_else + 0.2
    chunks = policy.predict([observation(14, 22, "pull it"), observation(4, 4, "push it")], [3, 4])
    assert chunks.shape == (2, CHUNK, 3) and chunks.dtype == np.float32 and np.abs(chunks).max() <= 1
    assert (chunks[..., 2] == 0.25).all() and chunks[0, 0, 1] == pytest.approx(right, abs=1e-5)


def test_what_does_not_fit_is_named(dataset: EpisodeDataset, tmp_path: Path) -> None:
    objective, _ = make_objective(section(), dataset, seed=0)
    objective.save_policy(tmp_path, objective.model.state_dict())
    policy, seen = load_policy(tmp_path), observation(4, 4, "push it")
    for wrong, message in (
        (replace(seen, images={}), "images.front"),
        (replace(seen, images={"front": seen.images["front"].astype(np.float32)}), "float32"),
        (replace(seen, proprio=np.zeros(3, np.float32)), "2 finite numbers"),
    ):
        with pytest.raises(BadInput, match=message):
            policy.predict([wrong], [0])
    (tmp_path / "statistics.json").write_text('{"action": {"min": [0], "max": [1]}}')
    with pytest.raises(BadInput, match="3 finite numbers"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"behaviour_cloning": None}, "behaviour_cloning: null"),
        ({"family": "no-such"}, "'no-such'"),
        ({"family": "behavior_cloning"}, "behavior_cloning"),
        ({"family": "normalisation"}, "normalisation"),
        ({"family": "random"}, "random"),
        ({"family": "remote"}, "a missing key"),
        ({"behavior_cloning": {}}, "an unknown key"),
    ],
)
def test_a_family_without_its_block_is_refused(changes: dict[str, object], found: str) -> None:
    values = compose("default", ROOT)
    values["base_policy"] |= {"family": "behaviour_cloning"} | changes
    with pytest.raises(BadInput) as error:
        parse_params(values, "params.yaml")
    assert found in error.value.found


THEIRS = """
from world2act.core.params.section import Count, Section
from world2act.policies.random import from_pretrained

SUMMARY = "theirs"

class Parameters(Section):
    width: Count

def make_objective(params, dataset, chunks, seed):
    return params.block(Parameters).width, seed
"""
USE = """
import sys, types
sys.path.insert(0, sys.argv[1])
from world2act.core.errors import BadInput
from world2act.core.params import compose, parse_params
from world2act.data.chunks import ChunkDataset
from world2act.policies.base import family_summary, load_policy
from world2act.policies.imitation import make_objective

ChunkDataset.load = classmethod(lambda cls, dataset, episodes: None)
values = compose("theirs", sys.argv[1])
params = parse_params(values, "params.yaml").base_policy
print(make_objective(params, types.SimpleNamespace(splits={"train": range(1)}), 5)[0])
print(load_policy(sys.argv[1]).action_dim, family_summary(params.family), params.settings()["theirs"])
for wrong in ({"width": 0}, {"width": 1, "height": 1}, {}):
    try:
        parse_params(values | {"base_policy": values["base_policy"] | {"theirs": wrong}}, "params.yaml")
    except BadInput as error:
        print(error.key, error.found)
"""


def test_a_package_brings_a_family_of_its_own(tmp_path: Path) -> None:
    """Installed elsewhere, found by its entry point: its profile names it, and nothing of ours does."""
    info = tmp_path / "their_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[world2act.policies]\ntheirs = their_policy\n")
    (tmp_path / "their_policy.py").write_text(THEIRS)
    (tmp_path / "config.json").write_text('{"family": "theirs", "chunk_length": 2, "action_dim": 3}')
    shutil.copytree(ROOT / "conf/profile", tmp_path / "conf/profile")
    profile = "profile: theirs\nbase_policy: {family: theirs, theirs: {width: 7}}\n"
    (tmp_path / "conf/profile/theirs.yaml").write_text(profile)
    done = subprocess.run([sys.executable, "-c", USE, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-5:] == [
        "(7, 5)",
        "3 theirs {'width': 7}",
        "base_policy.theirs.width 0",
        "base_policy.theirs.height an unknown key",
        "base_policy.theirs.width a missing key",
    ], done.stderr
