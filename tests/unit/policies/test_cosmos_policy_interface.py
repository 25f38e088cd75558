"""What lies between a robot and NVIDIA's released Cosmos Policies, and their conversion, at tiny size."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from tests.helpers.native_weights import cosmos_layout
from tests.helpers.paths import ROOT
from world2act.cli import app
from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy, Tokenizer, compose
from world2act.data.chunks import ChunkDataset
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import load_policy
from world2act.policies.cosmos_policy.conversion import convert
from world2act.policies.cosmos_policy.interface import INTERFACES
from world2act.policies.cosmos_policy.objective import CosmosPolicyObjective
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.robot import RobotDescription
from world2act.sims.base import Observation
from world2act.training.objective import BatchPosition
from world2act.world_model.parts.tokenizer import make_vae
from world2act.world_model.parts.transformer import build_transformer

SIDE, INSTRUCTION = 64, "pick up the milk and place it in the basket"
BLOCK = {"heads": 2, "head_dim": 16, "layers": 1, "adaln_lora_dim": 4, "patch_size": 2, "prediction": "velocity"}
TEXT_DIM = 12
EMBEDDING = torch.randn(1, 6, TEXT_DIM, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vae")
    params = Tokenizer.model_validate(compose("default", ROOT)["tokenizer"] | {"base_dim": 4})
    make_vae(params, seed=0).save_pretrained(root / "vae")
    return root


def params_of(interface: str, **block: object) -> BasePolicy:
    values = compose("default", ROOT)["base_policy"] | {"family": "cosmos_policy"}
    values["chunk_length"] = INTERFACES[interface].chunk_length
    values["cosmos_policy"] |= BLOCK | {"interface": interface, "noise_draws": 1} | block
    return BasePolicy.model_validate(values)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it: bfloat16 weights behind "net.", statistics with more than we read, a pickle of embeddings."""
    root = tmp_path_factory.mktemp("released")
    network = build_transformer(params_of("libero").cosmos_policy, 16, TEXT_DIM, seed=3)
    torch.save(
        {
            key: value.bfloat16() if "pos_embedder" not in key else value
            for key, value in cosmos_layout(network).items()
        },
        root / "Cosmos-Policy-LIBERO-Predict2-2B.pt",
    )
    numbers = {"actions": 7, "proprio": 9}
    statistics = {
        f"{key}_{end}": [bound] * count
        for key, count in numbers.items()
        for end, bound in (("min", -1.0), ("max", 1.0))
    }
    statistics |= {"actions_mean": [0.0] * 7}
    (root / "libero_dataset_statistics.json").write_text(json.dumps(statistics))
    (root / "libero_t5_embeddings.pkl").write_bytes(pickle.dumps({INSTRUCTION: EMBEDDING}))
    return root


@pytest.fixture(scope="module")
def policy_folder(released: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "policy"
    options = ["--interface", "libero", "--vae", str(vae), "--image-size", str(SIDE)]
    shown = CliRunner().invoke(app, ["convert-cosmos-policy", str(released), str(target), *options])
    assert shown.exit_code == 0, shown.output
    return target


def robot_state(interface: str, rows: int = 5) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=(rows, len(INTERFACES[interface].robot(SIDE).proprio))).astype(np.float32)


def observe(seed: int) -> Observation:
    generator = np.random.default_rng(seed)
    images = {name: generator.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for name in ("agentview", "eye_in_hand")}
    return Observation(images, robot_state("libero")[0], INSTRUCTION, np.zeros(0, np.float32))


def test_libero_proprioception_is_gripper_position_and_the_quaternion_of_robosuite() -> None:
    """Through robosuite's own formula for axis times angle, which keeps the quaternion's sign."""
    quaternions = np.random.default_rng(1).normal(size=(50, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    assert (quaternions[:, 3] < 0).any() and (quaternions[:, 3] > 0).any()
    turns = np.stack([q[:3] * 2 * math.acos(q[3]) / math.sqrt(1 - q[3] ** 2) for q in quaternions])
    positions, fingers = np.arange(150).reshape(50, 3), np.arange(100).reshape(50, 2) + 0.5
    seen = INTERFACES["libero"].proprio(np.concatenate([positions, turns, fingers], 1))
    np.testing.assert_allclose(seen, np.concatenate([fingers, positions, quaternions], 1), rtol=1e-6, atol=1e-6)
    still = INTERFACES["libero"].proprio(np.zeros(8))
    assert still.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_robocasa_proprioception_is_in_the_world() -> None:
    base, hand = Rotation.from_euler("z", 70, degrees=True), Rotation.from_euler("xyz", [172, 9, -30], degrees=True)
    base_place, hand_place = np.array([1.0, -2.0, 0.5]), np.array([0.4, 0.1, 0.9])
    quaternion = hand.as_quat() * -np.sign(hand.as_quat()[0])  # as robosuite may give it: the other sign
    state = np.concatenate([base_place, base.as_quat(), hand_place, quaternion, [0.02, -0.03]])
    seen = INTERFACES["robocasa"].proprio(state)
    np.testing.assert_allclose(seen[:2], [0.02, -0.03])
    np.testing.assert_allclose(seen[2:5], base_place + base.apply(hand_place), rtol=1e-6)
    turned = (base * hand).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(seen[5:]).as_matrix(), turned, atol=1e-6)
    again = INTERFACES["robocasa"].proprio(np.concatenate([state[:10], -state[10:14], state[14:]]))
    np.testing.assert_allclose(again, seen)


def test_robocasa_acts_seven_of_twelve() -> None:
    row = INTERFACES["robocasa"]
    actions = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
    whole = row.robot_actions(actions)
    assert whole.shape == (2, 3, 12) and np.array_equal(whole[..., :7], actions)
    assert (whole[..., 7:] == [0, 0, 0, 0, -1]).all()
    assert np.array_equal(row.network_actions(whole), actions)


def test_pictures_are_mirrored_compressed_resized_and_cropped() -> None:
    """Against PIL alone: ours stand turned by 180 degrees, theirs upside down from the same robosuite picture."""
    rows, columns = np.mgrid[:256, :256]
    robosuite = np.stack([rows, columns, (rows + columns) // 2], -1).astype(np.uint8)
    ours = np.ascontiguousarray(robosuite[::-1, ::-1])[None, None]
    seen = INTERFACES["libero"].pictures(ours)
    assert seen.shape == (1, 1, 224, 224, 3) and seen.dtype == np.uint8
    theirs = Image.fromarray(np.ascontiguousarray(robosuite[::-1])).resize((224, 224))
    expected = np.asarray(theirs.crop((6, 6, 218, 218)).resize((224, 224), Image.Resampling.BILINEAR), int)
    assert np.abs(seen[0, 0] - expected).max() <= 5 and np.abs(seen[0, 0] - expected).mean() < 1
    noise = np.random.default_rng(0).integers(0, 255, (1, 1, 224, 224, 3), np.uint8)
    assert np.array_equal(INTERFACES["dataset"].pictures(noise), noise)
    # upright already, and JPEG loses some of noise
    cropped = Image.fromarray(noise[0, 0]).crop((6, 6, 218, 218)).resize((224, 224), Image.Resampling.BILINEAR)
    lost = np.abs(INTERFACES["robocasa"].pictures(noise)[0, 0] - np.asarray(cropped, int)).mean()
    assert 1 < lost < 30


@pytest.mark.parametrize("change", ["proprio", "actions", "image_convention", "cameras"])
def test_another_robot_is_refused_by_name(change: str) -> None:
    row = INTERFACES["libero"]
    right = row.robot(SIDE)
    other = "upright" if change == "image_convention" else getattr(right, change)[1:]
    wrong = RobotDescription(**{**{f: getattr(right, f) for f in RobotDescription.__dataclass_fields__}, change: other})
    assert row.fit(right, "key")[1] == ("eye_in_hand", "agentview")
    with pytest.raises(BadInput, match=f"key\\n  found:    {{'{change}': "):
        row.fit(wrong, "key")


def test_released_weights_become_a_policy_bit_by_bit(policy_folder: Path, released: Path) -> None:
    policy = load_policy(policy_folder)
    native = torch.load(released / "Cosmos-Policy-LIBERO-Predict2-2B.pt", weights_only=True)
    renamed = {key for key in cosmos_layout(policy.network) if "pos_embedder" not in key and "accum" not in key}
    kept = cosmos_layout(policy.network)
    compared = [key for key in renamed if not key.endswith("_extra_state")]
    assert len(compared) == len(policy.network.state_dict())
    assert all(torch.equal(kept[key], native[key].float()) for key in compared)
    assert policy.statistics[PROPRIO].low.shape == (9,) and policy.statistics[ACTION].low.shape == (7,)
    assert np.array_equal(policy.prompts[INSTRUCTION], EMBEDDING[0].float().numpy())
    assert RobotDescription.read(policy_folder) == INTERFACES["libero"].robot(SIDE)
    assert {path.suffix for path in policy_folder.rglob("*") if path.is_file()} == {".safetensors", ".json", ".md"}
    foreseen = policy.foresee([observe(0)], [1])
    assert foreseen.actions.shape == (1, 16, 7) and np.abs(foreseen.actions).max() <= 1
    assert foreseen.proprio.shape == (1, 9) and foreseen.latents.shape == (1, 16, 9, 14, 14)


def test_training_starts_from_a_policy(policy_folder: Path, tmp_path: Path) -> None:
    dataset = record(tmp_path / "labelled")
    chunks = ChunkDataset.load(dataset, range(1))
    begun = load_policy(policy_folder)
    kept = CosmosPolicyObjective(params_of("libero", weights=str(policy_folder), tuning="none"), dataset, chunks, 0)
    assert not any(weight.requires_grad for weight in kept.model.parameters())
    (tmp_path / "kept").mkdir()
    kept.save_policy(tmp_path / "kept", kept.model.state_dict())
    for part in ("model.safetensors", "statistics.json", "prompts.safetensors"):
        assert (tmp_path / "kept" / part).read_bytes() == (policy_folder / part).read_bytes()

    tuned = CosmosPolicyObjective(params_of("libero", weights=str(policy_folder)), dataset, chunks, 0)
    assert all(torch.equal(value, begun.network.state_dict()[key]) for key, value in tuned.model.state_dict().items())
    position = BatchPosition.of(0, 0, 2)
    loss, _ = tuned.loss(tuned.model, tuned.batch(position), position)
    loss.backward()
    assert math.isfinite(loss.detach()) and all(weight.grad is not None for weight in tuned.model.parameters())

    with pytest.raises(BadInput, match=r"config\.json: layers\n"):
        CosmosPolicyObjective(params_of("libero", weights=str(policy_folder), layers=2), dataset, chunks, 0)
    with pytest.raises(BadInput, match="a policy's folder"):
        CosmosPolicyObjective(params_of("libero", tuning="none"), dataset, chunks, 0)
    chunks.instructions[0] = "sing"
    with pytest.raises(BadInput, match="sing"):
        CosmosPolicyObjective(params_of("libero", weights=str(policy_folder)), dataset, chunks, 0)


def test_parts_that_do_not_fit_are_named(released: Path, vae: Path, tmp_path: Path, policy_folder: Path) -> None:
    def copy(name: str) -> Path:
        (tmp_path / name).mkdir()
        for path in released.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        return tmp_path / name

    two, robot, words, torn = (copy(name) for name in ("two", "robot", "words", "torn"))
    (two / "other.pt").touch()
    numbers = json.loads((robot / "libero_dataset_statistics.json").read_text())
    (robot / "libero_dataset_statistics.json").write_text(json.dumps(numbers | {"proprio_min": [0.0] * 8}))
    (words / "libero_t5_embeddings.pkl").write_bytes(pickle.dumps({"a": torch.zeros(1, 3, TEXT_DIM + 1)}))
    (torn / "Cosmos-Policy-LIBERO-Predict2-2B.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (two, r"two: \*\.pt\n  found:    \['Cosmos-Policy-LIBERO-Predict2-2B.pt', 'other.pt'\]"),
        (tmp_path / "empty", "nothing"),
        (robot, r"proprio_min\n  found:    shapes \(8,\) and \(9,\)"),
        (words, rf"a\n  found:    \(3, {TEXT_DIM + 1}\)"),
        (torn, r"2B\.pt"),
    ):
        with pytest.raises(BadInput, match=message):
            convert(source, tmp_path / "target", interface="libero", vae=vae, image_size=SIDE)
        assert not (tmp_path / "target").exists()
    with pytest.raises(BadInput, match="nothing yet"):
        convert(released, policy_folder, interface="libero", vae=vae, image_size=SIDE)


def record(directory: Path) -> EpisodeDataset:
    robot, generator, length = INTERFACES["libero"].robot(SIDE), np.random.default_rng(2), 18
    features = {f"observation.images.{camera}": image_feature(SIDE, SIDE) for camera in ("agentview", "eye_in_hand")}
    features |= {"observation.state": array_feature(robot.proprio), "action": array_feature(robot.actions)}
    extra = {"image_convention": robot.image_convention}
    with DatasetWriter(directory, features=features, fps=20, robot_type="panda", extra=extra) as writer:
        images = {
            camera: generator.integers(0, 255, (length, SIDE, SIDE, 3), np.uint8)
            for camera in ("agentview", "eye_in_hand")
        }
        arrays = {"observation.state": robot_state("libero", length), "action": np.zeros((length, 7), np.float32)}
        writer.add(encode(Episode("task", INSTRUCTION, 0, images, arrays)))
        writer.set_splits({"train": range(1), "heldout": range(1, 1)})
    return EpisodeDataset.open(directory)
