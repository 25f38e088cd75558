"""Fine-tuning a released GR00T checkpoint, of a tiny size, by the stage's own objective and the one training loop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, safe_open
from torch import Tensor

from stages import base_policy
from tests.helpers.gr00t_checkpoint import CHUNK, EMBODIMENT, INSTRUCTIONS, SLOTS, tensors, write_checkpoint
from tests.helpers.paths import ROOT
from tests.helpers.ranks import run_ranks
from tests.helpers.repository import make_repository
from tests.helpers.toy_training import kill
from world2act.core.errors import BadInput
from world2act.core.params import Base, BasePolicy, compose, parse_params
from world2act.core.stage import is_main, run_stage
from world2act.core.storage import write_json, write_tensors
from world2act.data.episodes import Episode, encode
from world2act.data.features import array_feature, image_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.policies.base import load_policy
from world2act.policies.dataset import describe_robot
from world2act.policies.gr00t.checkpoint import _EAGLES, count_parameters, read_config
from world2act.policies.gr00t.objective import ImitationObjective
from world2act.policies.gr00t.tuning import PROJECTOR
from world2act.policies.imitation import make_objective, train_policy
from world2act.sims.base import Observation
from world2act.training import dry_run
from world2act.training.objective import BatchPosition

SIDE, STEPS = 32, 40
CAMERAS = ("front", "hand")
PROPRIO = ["ee_x", "ee_y", "ee_z", "ee_rx", "ee_ry", "ee_rz", "left", "right"]
ACTIONS = ["dx", "dy", "dz", "rx", "ry", "rz", "grip"]
PARTS = ["x", "y", "z", "roll", "pitch", "yaw"]
LIBERO = {
    "embodiment": EMBODIMENT,
    "views": {"image": "front", "wrist_image": "hand"},
    "state": {**{part: [name] for part, name in zip(PARTS, PROPRIO, strict=False)}, "gripper": ["left", "right"]},
    "action": {part: [name] for part, name in zip([*PARTS, "gripper"], ACTIONS, strict=True)},
}
NEW = {"embodiment": "new_embodiment"}
DRAWN = {"weights": None, "sizes": compose("default", ROOT)["base_policy"]["gr00t"]["sizes"], "tuning": "full"}
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": ["to_q", "to_k", "to_v"]}
TOP_LAYER = "backbone.model.language_model.model.layers.1."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations in which the arm goes where the instruction says."""
    directory, generator = tmp_path_factory.mktemp("demos") / "labelled", np.random.default_rng(0)
    features = {f"observation.images.{camera}": image_feature(SIDE, SIDE) for camera in CAMERAS}
    features |= {"observation.state": array_feature(PROPRIO), "action": array_feature(ACTIONS)}
    extra = {"image_convention": "upright"}
    with DatasetWriter(directory, features=features, fps=10, robot_type="panda", extra=extra) as writer:
        for index, instruction in enumerate(INSTRUCTIONS):
            time = np.linspace(0, 1, 14, dtype=np.float32)[:, None]
            sign = 1 - 2 * index
            arrays = {
                "observation.state": sign * time + np.linspace(-0.2, 0.2, 8, dtype=np.float32),
                "action": sign * (0.8 - time) * np.linspace(0.5, 1, 7, dtype=np.float32),
            }
            images = {camera: generator.integers(0, 255, (14, SIDE, SIDE, 3), dtype=np.uint8) for camera in CAMERAS}
            writer.add(encode(Episode("task", instruction, index, images, arrays)))
        writer.set_splits({"train": range(2), "heldout": range(2, 2)})
    return directory


def section(source: Path, deepspeed: str = "zero2-bf16", **block: Any) -> BasePolicy:
    """The profile of NVIDIA's settings, for the tiny checkpoint."""
    values = compose("gr00t-n1.6", ROOT)["base_policy"]
    tiny = {"weights": str(source), "parameters": None, "top_language_layers": 1, "noise_draws": 4}
    if block.get("tuning", "projector_dit") != "projector_dit":
        tiny["top_language_layers"] = 0
    values["gr00t"] |= tiny | block
    values["chunk_length"] = CHUNK
    values["training"] |= {
        "steps": STEPS,
        "batch_size": 8,
        "learning_rate": 6e-3,
        "warmup_steps": 2,
        "checkpoint_every": 20,
        "deepspeed": str(ROOT / f"infra/deepspeed/{deepspeed}.json"),
    }
    return BasePolicy.model_validate(values)


def objective_of(params: BasePolicy, labelled: Path) -> ImitationObjective:
    return make_objective(params, EpisodeDataset.open(labelled), seed=0)[0]


def fine_tune(params: BasePolicy, labelled: Path, environment: dict[str, str]) -> None:
    """What the stage does until the policy is saved; KILL_AT ends rank 0 on its way."""
    os.environ |= environment
    dataset = EpisodeDataset.open(labelled)
    objective, _ = make_objective(params, dataset, 0)
    batch = objective.batch
    objective.batch = lambda position: kill(position) or batch(position)
    trained = train_policy(params, objective, Base(seed=0, ranks=1, workers=1), "demonstrations")
    if is_main():
        Path("policy").mkdir()
        objective.save_policy(Path("policy"), trained.ema)
        describe_robot(dataset).write(Path("policy"))
        write_tensors("result.safetensors", {name: value.numpy() for name, value in trained.weights.items()})


def losses(folder: Path) -> list[float]:
    _, *rows = (folder / "metrics/base_policy/train/plots/metrics/loss.tsv").read_text().splitlines()
    return [float(row.split("\t")[-1]) for row in rows]


def trains(name: str) -> bool:
    return name.startswith(("action_head.", TOP_LAYER))


@pytest.fixture(scope="module")
def known(weights: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot that the checkpoint knows, on two ranks, by ZeRO 2 in bfloat16."""
    folder = tmp_path_factory.mktemp("known")
    assert run_ranks(folder, 2, fine_tune, section(weights, **LIBERO), labelled, {}) == ""
    return folder


@pytest.fixture(scope="module")
def new(weights: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot that it does not, on one rank."""
    folder = tmp_path_factory.mktemp("new")
    assert run_ranks(folder, 1, fine_tune, section(weights, gradient_checkpointing=True, **NEW), labelled, {}) == ""
    return folder


def assert_learnt(folder: Path, weights: Path) -> None:
    curve = losses(folder)
    assert len(curve) == STEPS and np.mean(curve[-4:]) < 0.8 * np.mean(curve[:4]), curve
    before, after = tensors(read_config(weights), seed=0), load_file(folder / "result.safetensors")
    assert all(torch.equal(after[name], before[name].float()) for name in after if not trains(name))
    moved = {name for name in after if not torch.equal(after[name], before[name].float())}
    assert {name.split(".")[1] for name in moved if name.startswith("action_head.")} == {"model", *PROJECTOR}
    assert any(name.startswith(TOP_LAYER) for name in moved)


def act(folder: Path) -> np.ndarray:
    policy = load_policy(folder / "policy")
    assert (policy.chunk_length, policy.action_dim, policy.proprio_dim) == (CHUNK, 7, 8)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    observation = Observation(dict.fromkeys(CAMERAS, image), np.zeros(8, np.float32), INSTRUCTIONS[0], np.zeros(0))
    return policy.predict([observation], [1])[0]


def test_a_robot_that_the_checkpoint_knows_keeps_its_statistics(known: Path, weights: Path) -> None:
    assert_learnt(known, weights)
    assert act(known).shape == (CHUNK, 7)
    saved, released = (
        json.loads((position / "statistics.json").read_text()) for position in (known / "policy", weights)
    )
    assert saved == released
    assert load_policy(known / "policy").processor.slot == SLOTS[EMBODIMENT]


def test_a_new_robot_is_measured_on_its_demonstrations(new: Path, weights: Path, labelled: Path) -> None:
    assert_learnt(new, weights)
    assert np.abs(act(new)).max() > 0
    (of,) = json.loads((new / "policy/statistics.json").read_text()).values()
    actions = np.concatenate([EpisodeDataset.open(labelled).columns(i, ["action"])["action"] for i in range(2)])
    assert of["action"]["action"]["max"] == pytest.approx(actions.max(0).tolist())
    assert load_policy(new / "policy").processor.slot == SLOTS["new_embodiment"]


def test_a_killed_run_ends_like_one_that_was_not(weights: Path, labelled: Path, new: Path, tmp_path: Path) -> None:
    params = section(weights, gradient_checkpointing=True, **NEW)
    assert "-9" in run_ranks(tmp_path, 1, fine_tune, params, labelled, {"KILL_AT": "25"})
    (checkpoint,) = (tmp_path / "runs/base_policy").glob("*/20")
    with safe_open(checkpoint / "part-00000.safetensors", "pt") as file:
        kept = set(file.keys())
    names = {name for name in load_file(new / "result.safetensors") if trains(name)}
    assert kept == {f"{part}/{name}" for part in ("weight", "exp_avg", "exp_avg_sq") for name in names}
    assert run_ranks(tmp_path, 1, fine_tune, params, labelled, {"KILL_AT": "-1"}) == ""
    one, other = (load_file(folder / "result.safetensors") for folder in (new, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("modality", ["action", "state"])
def test_demonstrations_in_other_units_are_refused(
    weights: Path, labelled: Path, tmp_path: Path, modality: str
) -> None:
    """As LIBERO's gripper, -1 or 1, would be by statistics of one that is 0 to 1."""
    other = shutil.copytree(weights, tmp_path / "weights")
    statistics = json.loads((other / "statistics.json").read_text())
    gripper = statistics[EMBODIMENT][modality]["gripper"]
    for name, value in {"min": 10.0, "max": 11.0, "q01": 10.0, "q99": 11.0}.items():
        gripper[name] = np.full_like(gripper[name], value).tolist()
    write_json(other / "statistics.json", statistics)
    refused = rf"base_policy\.gr00t\.{modality}\.gripper\n.*100% of the frames of (grip|left) far outside"
    with pytest.raises(BadInput, match=refused):
        objective_of(section(other, **LIBERO), labelled)


@pytest.mark.slow
def test_frozen_weights_are_whole_again_after_zero_3(weights: Path, labelled: Path, tmp_path: Path) -> None:
    assert run_ranks(tmp_path, 2, fine_tune, section(weights, "zero3-bf16", **LIBERO), labelled, {}) == ""
    assert_learnt(tmp_path, weights)


@pytest.mark.slow
def test_adapters_train_on_two_ranks_over_frozen_bfloat16(weights: Path, labelled: Path, tmp_path: Path) -> None:
    params = section(weights, tuning="lora", lora=LORA, **NEW)
    assert run_ranks(tmp_path, 2, fine_tune, params, labelled, {}) == ""
    curve, before = losses(tmp_path), tensors(read_config(weights), seed=0)
    assert np.mean(curve[-4:]) < 0.9 * np.mean(curve[:4]), curve
    after = load_file(tmp_path / "result.safetensors")
    frozen = {
        name: value for name, value in after.items() if ".lora_" not in name and name.split(".")[1] not in PROJECTOR
    }
    assert all(torch.equal(value, before[name.replace(".base_layer", "")].float()) for name, value in frozen.items())
    assert all(value.any() for name, value in after.items() if ".lora_B." in name), "an adapter did not move"
    assert act(tmp_path).shape == (CHUNK, 7)


def trained(objective: ImitationObjective) -> Counter[str]:
    """How many numbers are trained, by part."""
    found: Counter[str] = Counter()
    for name, weight in objective.model.named_parameters():
        if weight.requires_grad:
            assert weight.dtype == torch.float32
            part = name.split(".")[1] if name.startswith("action_head.") else name.split(".")[2]
            found[f"{part} adapter" if ".lora_" in name else part] += weight.numel()
        else:
            assert weight.dtype == torch.bfloat16, name
    return found


def test_what_trains_is_projector_diffusion_transformer_and_top_layers(weights: Path, labelled: Path) -> None:
    sizes = {name: value.numel() for name, value in tensors(read_config(weights), seed=0).items()}

    def of(*prefixes: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(prefixes))

    found = trained(objective_of(section(weights, **NEW), labelled))
    head = {part: of(f"action_head.{part}") for part in ("model.", *PROJECTOR)}
    assert found == {
        "model": head.pop("model."),
        **head,
        "language_model": of(TOP_LAYER),
    }
    only_head = trained(objective_of(section(weights, top_language_layers=0, **NEW), labelled))
    assert only_head == {part: count for part, count in found.items() if part != "language_model"}
    everything = objective_of(section(weights, tuning="full", **NEW), labelled).model
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in everything.parameters())


def test_adapters_sit_in_the_diffusion_transformer_and_are_merged(
    weights: Path, labelled: Path, tmp_path: Path
) -> None:
    objective = objective_of(section(weights, "cpu", tuning="lora", lora=LORA, **NEW), labelled)
    model, parameters = objective.model, dict(objective.model.named_parameters())
    adapters = [name for name in parameters if ".lora_" in name]
    assert len(adapters) == 4 * 3 * 2 and all("action_head.model.transformer_blocks" in name for name in adapters)
    projector = {name for name, weight in parameters.items() if weight.requires_grad} - set(adapters)
    assert {name.split(".")[1] for name in projector} == {*PROJECTOR}
    optimizer = torch.optim.AdamW([weight for weight in parameters.values() if weight.requires_grad], 3e-3)
    position = BatchPosition.of(0, 0, 8)
    for _ in range(3):
        optimizer.zero_grad()
        objective.loss(model, objective.batch(position), position)[0].backward()
        optimizer.step()
    objective.save_policy(tmp_path, model.state_dict())
    merged = load_policy(tmp_path).model
    assert not any("lora" in name for name, _ in merged.named_parameters())
    batch = objective.batch(position)
    with torch.no_grad():
        wanted = model.eval()(batch.inputs, batch.noisy, batch.times)
        found = merged(batch.inputs, batch.noisy, batch.times)
        for name in adapters:
            parameters[name].zero_()
        without = model(batch.inputs, batch.noisy, batch.times)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - without).abs().max() > 1e-3


def test_what_is_random_about_a_sample_is_its_own(weights: Path, labelled: Path) -> None:
    """A step has the same samples on one rank as on two, in halves; hidden states and pictures included."""
    objective = objective_of(section(weights, **NEW), labelled)

    def flat(position: BatchPosition) -> dict[str, Tensor]:
        batch = objective.batch(position)
        values = vars(batch) | vars(batch.inputs)
        return {name: value for name, value in values.items() if torch.is_tensor(value)}

    whole = flat(BatchPosition.of(0, 3, 8))
    halves = [flat(BatchPosition.of(0, 3, 8, rank=rank, ranks=2)) for rank in range(2)]
    assert {"dropped", "pixels", "noisy", "learned"} <= whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.cat([half[name] for half in halves]), msg=name)
    assert whole["dropped"].any() and not whole["dropped"].all()
    assert (
        objective_of(section(weights, state_dropout=0.0, **NEW), labelled)
        .batch(BatchPosition.of(0, 3, 8))
        .inputs.dropped
        is None
    )
    other = flat(BatchPosition.of(1, 3, 8))
    assert not torch.equal(whole["pixels"], other["pixels"]), "the crop and the colours are drawn"
    # 7 of 10 dimensions and 8 of 12 steps are the robot's
    assert not whole["learned"][..., 7:].any() and not whole["learned"][:, CHUNK:].any()


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("base_policy.gr00t.top_language_layers", {"top_language_layers": 3}),
        ("base_policy.gr00t.parameters", {"parameters": 7}),
        ("base_policy.gr00t.embodiment", {"tuning": "none"}),
        ("base_policy.gr00t.weights", {"weights": "no/such/folder"}),
        ("base_policy.gr00t.lora.targets", {"tuning": "lora", "lora": LORA | {"targets": ["to_z"]}}),
        ("base_policy.gr00t.views.ego", DRAWN | {"views": {"ego": "nowhere"}}),
        ("nobody", {"embodiment": "nobody"}),
    ],
)
def test_what_does_not_fit_is_named(weights: Path, labelled: Path, key: str, block: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        objective_of(section(weights, **NEW | block), labelled)
    assert caught.value.key == key


def test_weights_that_know_the_robot_act_as_they_are(weights: Path, labelled: Path, tmp_path: Path) -> None:
    params = section(weights, tuning="none", **LIBERO)
    objective = objective_of(params, labelled)
    kept = train_policy(params, objective, Base(seed=0, ranks=1, workers=1), "demonstrations").weights
    before = tensors(read_config(weights), seed=0)
    assert all(torch.equal(value, before[name].float()) for name, value in kept.items())
    (tmp_path / "policy").mkdir()
    objective.save_policy(tmp_path / "policy", kept)
    assert act(tmp_path).shape == (CHUNK, 7)


@pytest.mark.parametrize(
    "block", [{"tuning": "none"}, {"top_language_layers": 2}, {"weights": "here"}, {"sizes": None}]
)
def test_settings_that_would_do_nothing_are_refused(block: dict[str, Any]) -> None:
    values = compose("default", ROOT)
    values["base_policy"]["gr00t"] |= block
    with pytest.raises(BadInput, match=r"base_policy\.gr00t"):
        parse_params(values, "params.yaml")


def used(folder: Path) -> int:
    """NVIDIA's count without the language model's head and SigLIP2's pooling head: a probe, attention, norm and MLP."""
    d, mlp = 1152, 4304
    pooling = d + (3 * d * d + 3 * d) + (d * d + d) + 2 * d + (d * mlp + mlp) + (mlp * d + d)
    return count_parameters(read_config(folder)) - 151_680 * 2048 - pooling


def dry_stage(free: int) -> None:
    sys.argv, dry_run._free = ["stage", "--dry-run"], lambda: free
    with Path("said").open("a") as stream, contextlib.redirect_stdout(stream):
        run_stage("base_policy", base_policy.main)


def test_the_full_size_is_told_without_its_weights(tmp_path: Path, weights: Path, labelled: Path) -> None:
    folder, at = tmp_path / "root", "data/weights/base_policy/published"
    published = folder / at
    (folder / "artifacts/demos").mkdir(parents=True)
    (folder / "artifacts/demos/labelled").symlink_to(labelled)
    values = compose("gr00t-n1.6", ROOT)
    values["base_policy"]["gr00t"]["weights"] = at
    values["base_policy"]["training"]["deepspeed"] = str(ROOT / values["base_policy"]["training"]["deepspeed"])
    make_repository(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    sizes = {
        "backbone_embedding_dim": 2048,
        "select_layer": 16,
        "max_state_dim": 128,
        "max_action_dim": 128,
        "action_horizon": 50,
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "max_num_embodiments": 32,
        "max_seq_len": 1024,
    }
    transformer = {"num_layers": 32, "num_attention_heads": 32, "attention_head_dim": 48, "output_dim": 1024}
    config = json.loads((weights / "config.json").read_text()) | sizes
    config["diffusion_model_cfg"] |= transformer
    write_json(published / "config.json", config)
    # NVIDIA's sizes of the backbone, and the image token of the tiny tokenizer
    image_token = json.loads((weights / "tokenizer/config.json").read_text())["image_token_index"]
    shutil.copytree(weights / "tokenizer", published / "tokenizer")
    eagle = _EAGLES["nvidia/Eagle-Block2A-2B-v2"] | {"image_token_index": image_token}
    write_json(published / "tokenizer/config.json", eagle)
    processor = json.loads((weights / "processor_config.json").read_text())
    processor["processor_kwargs"] |= {
        "shortest_image_edge": 256,
        "max_state_dim": 128,
        "max_action_dim": 128,
        "max_action_horizon": 50,
    }
    write_json(published / "processor_config.json", processor)
    write_json(published / "statistics.json", {})
    assert run_ranks(folder, 2, dry_stage, 10**9) == ""
    text = (folder / "said").read_text()
    layer = 2 * 2048 * 2048 + 2 * 2048 * 1024 + 2 * 128 + 3 * 2048 * 6144 + 2 * 2048
    head = 1_418_624_000 + 1536  # the token that stands for a hidden state
    total, trained = used(published), head + 4 * layer
    assert f"parameters: {total:,}, of which {trained:,} are trained" in text
    assert f"action_head: {head:,}, trained {head:,}" in text
    assert f"weights: {(2 * (total - trained) + 4 * trained) / 1e9:.1f} GB" in text, "what is frozen is in bfloat16"
    assert f"float32 copy that is stepped: {4 * trained / 2 / 1e9:.1f} GB" in text
    assert f"optimiser, average included: {2 * 4 * trained / 2 / 1e9:.1f} GB" in text, "of what is trained alone"
    assert "batch: 2 ranks x 32 samples x 1 micro-batches = 64" in text and "built: the outline" in text
    assert not (folder / "runs").exists() and not (folder / "artifacts/base_policy").exists()
