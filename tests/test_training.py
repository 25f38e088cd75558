"""The one training loop: a killed run ends like one that was not killed, at several ZeRO stages and ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from world2act.training.checkpoint import WeightsOnlyCheckpoints

ROOT = Path(__file__).parents[1]


def configuration(folder: Path, stage: int) -> Path:
    config = json.loads((ROOT / "infra/deepspeed/cpu.json").read_text())
    config["zero_optimization"]["stage"] = stage
    path = folder / f"zero{stage}.json"
    path.write_text(json.dumps(config))
    return path


def run(folder: Path, stage: int, ranks: int, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"} | environment
    return subprocess.run(
        [*command, str(ROOT / "tests/toy_training.py"), str(configuration(folder, stage))],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def outcome(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    curves = {str(file.relative_to(folder)): file.read_text() for file in sorted((folder / "metrics").rglob("*.tsv"))}
    return json.loads((folder / "result.json").read_text()), curves


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [(1, 2), pytest.param(0, 1, marks=SLOW), pytest.param(2, 2, marks=SLOW), pytest.param(3, 2, marks=SLOW)],
)
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, stage: int, ranks: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, stage, ranks).returncode == 0
    assert run(killed, stage, ranks, KILL_AT="17").returncode != 0
    assert not (killed / "result.json").exists()
    resumed = run(killed, stage, ranks)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert outcome(killed) == outcome(whole)
    assert outcome(whole)[1], "no curves were written"


def test_other_inputs_begin_a_new_run_and_leave_the_old_one(tmp_path: Path) -> None:
    run(tmp_path, 1, 1, KILL_AT="17", INPUTS="a")
    (old,) = (tmp_path / "runs/toy").iterdir()
    assert run(tmp_path, 1, 1, INPUTS="b").returncode == 0
    assert (old / "latest").read_text() == "10"
    assert len(list((tmp_path / "runs/toy").iterdir())) == 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    result = run(tmp_path, 1, 1, SCALE="nan")
    assert result.returncode != 0
    assert "toy.training.learning_rate" in result.stderr
    assert not (tmp_path / "runs").exists(), "a checkpoint of ruined weights was kept"


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"module": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        WeightsOnlyCheckpoints().load(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "owned").exists()


def test_batches_that_ranks_cannot_share_are_refused(tmp_path: Path) -> None:
    result = run(tmp_path, 1, 3)
    assert result.returncode != 0
    assert "not divisible by 3 ranks" in result.stderr
