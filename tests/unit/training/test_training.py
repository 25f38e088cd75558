"""The one training loop: a killed run ends like one that was not killed, at any ZeRO stage, on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers.paths import ROOT
from tests.helpers.ranks import run_ranks
from tests.helpers.toy_training import run_toy, train_toy
from world2act.core.params import compose, parse_params
from world2act.core.stage import is_main
from world2act.training.optimizer import AVERAGE, AveragingAdamW
from world2act.world_model.learning.reconstruction import ReconstructionObjective, measure_latents
from world2act.world_model.parts.tokenizer import load_tokenizer, make_vae

SLOW = pytest.mark.slow
STAGES = [pytest.param(stage, marks=SLOW) for stage in (0, 1, 2)] + [3]


def configuration(folder: Path, stage: int, **changes: Any) -> str:
    config = json.loads((ROOT / "infra/deepspeed/cpu.json").read_text()) | changes
    config["zero_optimization"] = {"stage": stage}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"zero{stage}.json"
    path.write_text(json.dumps(config))
    return str(path)


def run(folder: Path, stage: int, ranks: int, **options: Any) -> str:
    """Train in a folder; what was said of an error, or ""."""
    return run_ranks(folder, ranks, train_toy, configuration(folder.parent, stage), options)


def killed(at: int) -> dict[str, dict[str, str]]:
    return {"environment": {"KILL_AT": str(at)}}


def result(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "result.safetensors")


def curves(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted((folder / "metrics").rglob("*.tsv"))}


def assert_equal(one: Path, other: Path) -> None:
    first, second = result(one), result(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def assert_close(one: Path, other: Path) -> None:
    """Equal up to the order of summation, and both changed by training.

    Such runs differed by at most 1e-7, one unit in the last place of the largest weights.
    """
    first, second = result(one), result(other)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-5, atol=1e-6)
    assert not torch.equal(first["weights/1.weight"], first["before/1.weight"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one rank, without dropout, to its end: what every division of it must come close to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run(folder, 1, 1, dropout=0.0) == ""
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, stage: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, stage, 2) == ""
    assert "-9" in run(broken, stage, 2, **killed(17))
    assert not (broken / "result.safetensors").exists()
    assert run(broken, stage, 2) == ""
    assert_equal(whole, broken)
    assert curves(whole) == curves(broken) and curves(whole), "no curves were written"


@pytest.mark.parametrize(
    ("before", "after", "stage"),
    [(1, 2, 2), (2, 1, 3)]
    + [pytest.param(*case, marks=SLOW) for case in ((1, 2, 0), (2, 1, 0), (1, 2, 1), (2, 1, 1), (2, 1, 2), (1, 2, 3))],
)
def test_a_run_goes_on_with_another_number_of_ranks(
    undisturbed: Path, tmp_path: Path, before: int, after: int, stage: int
) -> None:
    broken = tmp_path / "killed"
    assert "-9" in run(broken, stage, before, dropout=0.0, **killed(17))
    assert run(broken, stage, after, dropout=0.0) == ""
    assert_close(undisturbed, broken)
    done = json.loads(next((broken / "runs/toy").glob("*/done.json")).read_text())
    assert done["ranks"] == after and done["samples"] == 20 * 8, "it did not go on where it was"


def test_a_run_goes_on_at_another_zero_stage_with_other_micro_batches(undisturbed: Path, tmp_path: Path) -> None:
    broken = tmp_path / "killed"
    assert "-9" in run(broken, 3, 2, dropout=0.0, **killed(17))
    assert run(broken, 2, 1, dropout=0.0, accumulation=4) == ""
    assert_close(undisturbed, broken)
    assert len(list((broken / "runs/toy").iterdir())) == 1


@pytest.mark.parametrize(
    ("stage", "ranks"), [*(pytest.param(*case, marks=SLOW) for case in ((0, 1), (1, 2), (2, 2))), (3, 2)]
)
def test_accumulation_changes_nothing_but_the_order_of_summation(
    undisturbed: Path, tmp_path: Path, stage: int, ranks: int
) -> None:
    assert run(tmp_path / "parts", stage, ranks, dropout=0.0, accumulation=2) == ""
    assert_close(undisturbed, tmp_path / "parts")
    means = []
    for folder in (undisturbed, tmp_path / "parts"):
        _, *rows = curves(folder)["metrics/toy/train/plots/metrics/loss.tsv"].splitlines()
        means.append([float(row.split("\t")[-1]) for row in rows])
    assert means[0] == pytest.approx(means[1], rel=1e-5) and len(means[0]) == 30


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_stay_as_they_are_and_the_average_follows_the_others(tmp_path: Path, stage: int) -> None:
    assert run(tmp_path / "run", stage, 2, dropout=0.0, steps=3, ema_decay=0.5) == ""
    assert run(tmp_path / "plain", stage, 2, dropout=0.0, steps=3, ema_decay=0.0) == ""
    found, plain = result(tmp_path / "run"), result(tmp_path / "plain")
    for part in ("weights", "ema"):
        assert torch.equal(found[f"{part}/0.weight"], found["before/0.weight"])
    assert torch.equal(found["weights/1.weight"], plain["weights/1.weight"]), "averaging changed the training"
    assert torch.equal(plain["weights/1.weight"], plain["ema/1.weight"])
    low, high = (found[f"{part}/1.weight"] for part in ("before", "weights"))
    moved = (low - high).abs() > 1e-4
    share = (found["ema/1.weight"] - low)[moved] / (high - low)[moved]
    assert ((share > 0.3) & (share < 1.0)).float().mean() > 0.8


def train_vae(configuration: str) -> None:
    """Four steps of the video VAE, first on single frames, then on clips; rank 0 measures and saves it."""
    own = parse_params(compose("default", ROOT), "conf/profile/default.yaml").tokenizer
    own = own.model_copy(update={"base_dim": 8, "patch_size": 2, "clip_frames": 5, "image_share": 0.5})
    episodes = list(np.random.default_rng(0).integers(0, 256, (3, 12, 16, 16, 3), dtype=np.uint8))
    vae = make_vae(own, 0)
    objective = ReconstructionObjective(vae, episodes, ["a", "b", "a"], own, 4)
    run_toy(objective, configuration, {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "learning_rate": 1e-3})
    if is_main():
        measure_latents(vae, episodes)
        vae.save_pretrained("vae")


def test_the_video_vae_trains_in_parts_as_whole(tmp_path: Path) -> None:
    """Its forward calls encode and decode, which the hooks of ZeRO 3 do not see; it must be whole again to be saved.

    Both stages take the same steps up to rounding. Adam makes a full step out of a gradient that is all rounding, so
    that the squared distance between them is 1e-5 of the squared way on a processor with AVX-512 and 1e-3 on one with
    AVX2; if one stage took other steps, it would be near 1. (In float64 it would be 1e-11, but there DeepSpeed's ZeRO 3
    only starts on processors that cannot compute in float16.)
    """
    for stage in (1, 3):
        assert run_ranks(tmp_path / f"run{stage}", 2, train_vae, configuration(tmp_path, stage)) == ""
    first, second = result(tmp_path / "run1"), result(tmp_path / "run3")
    error = sum((first[key] - second[key]).square().sum() for key in first if key.startswith("weights/"))
    moved = sum((first[key] - first[f"before/{key[8:]}"]).square().sum() for key in first if key.startswith("weights/"))
    assert error < 0.05 * moved
    saved = load_tokenizer(tmp_path / "run3").vae.state_dict()
    assert all(torch.equal(value, second[f"ema/vae.{key}"]) for key, value in saved.items())


def test_the_average_is_what_its_definition_gives() -> None:

    torch.manual_seed(0)
    weight, x = torch.nn.Parameter(torch.randn(5)), torch.randn(20, 5)
    optimizer = AveragingAdamW([weight], decay=0.6, lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)
    optimizer.begin([weight], 0)
    plain = torch.nn.Parameter(weight.detach().clone())
    reference = torch.optim.AdamW([plain], lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)
    average = weight.detach().clone()
    for step, row in enumerate(x):
        for parameter, stepper in ((weight, optimizer), (plain, reference)):
            stepper.zero_grad()
            (parameter - row).square().sum().backward()
            stepper.step()
        decay = min(0.6, (2 + step) / (11 + step))
        average = decay * average + (1 - decay) * plain.detach()
    assert torch.equal(weight, plain)
    torch.testing.assert_close(optimizer.state[weight][AVERAGE], average)


def test_one_checkpoint_is_kept_and_a_half_written_one_is_not_read(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, 1, 1) == ""
    assert "-9" in run(broken, 1, 1, **killed(25))
    (checkpoints,) = (broken / "runs/toy").iterdir()
    assert [folder.name for folder in checkpoints.iterdir()] == ["20"]
    half = checkpoints / ".writing-25"  # what a kill in mid-write leaves
    half.mkdir()
    (half / "part-00000.safetensors").write_bytes((checkpoints / "20/part-00000.safetensors").read_bytes()[:500])
    assert run(broken, 1, 1) == ""
    assert_equal(whole, broken)
    assert not half.exists()


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, 2, 2) == ""
    assert "-9" in run(broken, 2, 2, environment={"KILL_SAVING": "20"})
    (checkpoints,) = (broken / "runs/toy").iterdir()
    assert sorted(folder.name for folder in checkpoints.iterdir()) == [".writing-20", "10"]
    assert run(broken, 2, 2) == ""
    assert_equal(whole, broken)


def test_a_checkpoint_can_run_no_code_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert "-9" in run(tmp_path / "run", 1, 2, **killed(17))
    kept = {file.suffix for file in (tmp_path / "run/runs").rglob("*") if file.is_file()}
    assert kept == {".safetensors", ".json"}
    (checkpoints,) = (tmp_path / "run/runs/toy").iterdir()
    part = checkpoints / "10/part-00001.safetensors"
    part.write_bytes(part.read_bytes()[:-20])
    said = run(tmp_path / "run", 1, 2)
    assert "BadInput" in said and "part-00001.safetensors" in said and "the run starts again" in said


def test_other_inputs_begin_a_new_run_and_leave_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert "-9" in run(folder, 1, 1, **killed(17))
    (old,) = (folder / "runs/toy").iterdir()
    assert run(folder, 1, 1, identity="b") == ""
    assert (old / "10/meta.json").exists()
    assert len(list((folder / "runs/toy").iterdir())) == 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    said = run(tmp_path / "run", 1, 1, environment={"SCALE": "nan"})
    assert "toy.training.learning_rate" in said
    assert not (tmp_path / "run/runs").exists(), "a checkpoint of ruined weights was kept"


def test_batches_that_ranks_cannot_share_are_refused(tmp_path: Path) -> None:
    said = run(tmp_path / "run", 1, 2, accumulation=3)
    assert "training.batch_size" in said and "a multiple of 6" in said


def test_a_configuration_that_sets_what_training_does_is_refused(tmp_path: Path) -> None:
    path = configuration(tmp_path, 1, gradient_clipping=3.0)
    said = run_ranks(tmp_path / "run", 1, train_toy, path, {})
    assert "zero1.json: gradient_clipping" in said
