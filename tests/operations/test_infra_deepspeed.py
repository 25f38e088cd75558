"""The DeepSpeed configurations, run on the CPU with the real transformer made tiny: training, LoRA, going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers.paths import ROOT
from tests.helpers.ranks import run_ranks
from tests.helpers.toy_world_model import LORA, ToyWorldModel, train_toy_world_model
from world2act.world_model.parts.transformer import load_transformer

CONFIGURATIONS = sorted((ROOT / "infra/deepspeed").glob("*.json"))
GPU = [path for path in CONFIGURATIONS if path.stem != "cpu"]
NAMES = {"ids": lambda path: path.stem}


def train(folder: Path, configuration: Path, ranks: int = 2, **options: Any) -> str:
    return run_ranks(folder, ranks, train_toy_world_model, str(configuration), options)


def result(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "result.safetensors")


def without_bfloat16(folder: Path, configuration: Path) -> Path:
    config = json.loads(configuration.read_text())
    config["torch_autocast"]["enabled"] = False
    path = folder / "float32.json"
    path.write_text(json.dumps(config))
    return path


def test_they_leave_to_the_loop_what_it_sets() -> None:
    stages = set()
    for path in GPU:
        config = json.loads(path.read_text())
        # the optimiser is the loop's own, so that a resumed run is exact; DeepSpeed's CPU kernel would replace it
        assert config["zero_allow_untested_optimizer"] is True
        zero = config["zero_optimization"]
        assert "offload_optimizer" not in zero or config["zero_force_ds_cpu_optimizer"] is False
        assert config["torch_autocast"]["dtype"] == "bfloat16"
        stages.add(zero["stage"])
    assert stages == {1, 2, 3}


# in the default selection the adapters below run one of these files, and test_training.py kills runs
@pytest.mark.slow
@pytest.mark.parametrize("configuration", CONFIGURATIONS, **NAMES)
def test_each_trains_the_transformer_and_goes_on_after_a_kill(configuration: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(whole, configuration, checkpointing=True) == ""
    assert "-9" in train(killed, configuration, checkpointing=True, environment={"KILL_AT": "4"})
    assert train(killed, configuration, checkpointing=True) == ""
    first, second = result(whole), result(killed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    moved = [key for key in first if key.startswith("weights/") and not torch.equal(first[key], first[_before(key)])]
    assert len(moved) > 0.9 * len([key for key in first if key.startswith("weights/")])


@pytest.mark.parametrize(
    "configuration",
    [*(pytest.param(path, marks=pytest.mark.slow) for path in (CONFIGURATIONS[0], GPU[1])), GPU[2]],
    **NAMES,
)
def test_lora_trains_adapters_of_frozen_weights(configuration: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "run", configuration, lora=True) == ""
    found = result(tmp_path / "run")
    for key in (key for key in found if key.startswith("weights/")):
        adapter = ".lora_" in key
        assert torch.equal(found[key], found[_before(key)]) != adapter, key
    # what every consumer opens is the adapter merged, what diffusers opens is the adapter beside its base
    merged = load_transformer(tmp_path / "run/merged")
    plain = ToyWorldModel(lora=False, checkpointing=False).model
    inputs = _inputs()
    with torch.no_grad():
        before = plain.eval()(**inputs)[0]
        plain.load_lora_adapter(
            tmp_path / "run/lora", prefix=None, use_safetensors=True, weight_name="pytorch_lora_weights.safetensors"
        )
        after = plain.eval()(**inputs)[0]
        torch.testing.assert_close(merged(**inputs)[0], after, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(before, after, atol=1e-5), "the adapter changes nothing"


def test_lora_trains_as_many_weights_as_its_ranks_say() -> None:
    network = ToyWorldModel(lora=True, checkpointing=False).model
    plain = ToyWorldModel(lora=False, checkpointing=False).model
    layers = [
        layer
        for name, layer in plain.named_modules()
        if isinstance(layer, torch.nn.Linear) and any(f".{name}".endswith(f".{target}") for target in LORA.targets)
    ]
    assert len(layers) == 2 * (2 * 4 + 2)  # two blocks, each with two attentions and one MLP
    expected = sum(LORA.rank * (layer.in_features + layer.out_features) for layer in layers)
    assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == expected


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    for name, checkpointing in (("with", True), ("without", False)):
        assert train(tmp_path / name, ROOT / "infra/deepspeed/cpu.json", 1, checkpointing=checkpointing) == ""
    first, second = result(tmp_path / "with"), result(tmp_path / "without")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", GPU, **NAMES)
def test_bfloat16_and_partitions_change_numbers_as_little_as_they_should(configuration: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    assert train(plain, ROOT / "infra/deepspeed/cpu.json", 1) == ""
    assert train(tmp_path / "bfloat16", configuration) == ""
    assert train(tmp_path / "float32", without_bfloat16(tmp_path, configuration)) == ""
    expected, exact, rounded = result(plain), result(tmp_path / "float32"), result(tmp_path / "bfloat16")
    steps = torch.cat([(expected[k] - expected[_before(k)]).flatten() for k in expected if k.startswith("weights/")])
    for found, tolerance in ((exact, 1e-2), (rounded, 0.5)):
        error = torch.cat([(found[k] - expected[k]).flatten() for k in expected if k.startswith("weights/")])
        assert error.norm() < tolerance * steps.norm()
    assert any(not torch.equal(exact[key], rounded[key]) for key in exact), "bfloat16 made no difference"


def _before(key: str) -> str:
    return "before/" + key.split("/", 1)[1]


def _inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 16, 3, 4, 4),
        "condition_mask": torch.zeros(1, 1, 3, 4, 4),
        "timestep": torch.full((1, 1, 3, 1, 1), 0.5),
        "encoder_hidden_states": torch.randn(1, 4, 8),
        "padding_mask": torch.zeros(1, 1, 4, 4),
        "return_dict": False,
    }
