"""The DeepSpeed configurations for GPUs, run on the CPU: they train, in bfloat16, and go on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGURATIONS = sorted((ROOT / "infra/deepspeed").glob("zero*.json"))
OWNED_BY_THE_LOOP = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_clipping",
    "optimizer",
    "scheduler",
}


def train(folder: Path, configuration: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"} | environment
    return subprocess.run(
        [*command, str(ROOT / "tests/toy_training.py"), str(configuration)],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, str]:
    return json.loads((folder / "result.json").read_text())


def test_they_leave_to_the_loop_what_it_sets() -> None:
    stages = set()
    for path in CONFIGURATIONS:
        config = json.loads(path.read_text())
        assert not OWNED_BY_THE_LOOP & set(config), path
        # the optimiser is the loop's own, so that a resumed run is exact; DeepSpeed's CPU kernel would replace it
        assert config["zero_allow_untested_optimizer"] is True
        zero = config["zero_optimization"]
        assert "offload_optimizer" not in zero or config["zero_force_ds_cpu_optimizer"] is False
        assert config["gradient_accumulation_steps"] == 1 and config["torch_autocast"]["dtype"] == "bfloat16"
        stages.add(zero["stage"])
    assert stages == {1, 2, 3}


def test_it_trains_in_bfloat16(tmp_path: Path) -> None:
    path = ROOT / "infra/deepspeed/zero3-bf16.json"
    done = train(tmp_path, path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_killed_run_ends_like_one_that_was_not(configuration: Path, tmp_path: Path) -> None:
    whole, killed, single = tmp_path / "whole", tmp_path / "killed", tmp_path / "float32"
    done = train(whole, configuration)
    assert done.returncode == 0, done.stderr[-3000:]
    assert train(killed, configuration, KILL_AT="17").returncode != 0
    assert train(killed, configuration).returncode == 0
    assert weights(killed) == weights(whole)
    config = json.loads(configuration.read_text())
    config["torch_autocast"]["enabled"] = False
    (tmp_path / "float32.json").write_text(json.dumps(config))
    assert train(single, tmp_path / "float32.json").returncode == 0
    assert weights(single) != weights(whole), "bfloat16 made no difference"
