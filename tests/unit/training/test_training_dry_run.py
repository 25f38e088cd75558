"""`--dry-run`: what it says holds for the engine that a run would build, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages import world_model
from tests.helpers.latent_caches import write_latents
from tests.helpers.paths import ROOT
from tests.helpers.ranks import run_ranks
from tests.helpers.repository import make_repository
from tests.helpers.toy_world_model import ToyWorldModel
from world2act.core.params import Training, compose
from world2act.core.stage import run_stage
from world2act.core.storage import write_json
from world2act.training import dry_run
from world2act.training.engine import build_engine
from world2act.training.full_state import begin_optimizer, trainable
from world2act.training.launch import main as launch
from world2act.training.ranks import initialise

COSMOS_2B = 1_956_413_440


def workspace(folder: Path, **changes: Any) -> Path:
    """A pipeline root with twelve clips of latents for text of 1024 dimensions, and `world_model` of a profile."""
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        subset, task = ("heldout" if i >= 8 else "train"), {"task": "toy", "instruction": "do it", "provider": "schema"}
        rows.append(
            {"dataset": "video_only", "episode_index": i, "subset": subset, "skill_index": 0, "skill_count": 1}
            | {"start": 0, "end": 8, "raw_end": 8, "prompt": "lift"}
            | task
        )
    latents = ((i, rng.normal(size=(3, 16, 8, 8)).astype(np.float32)) for i in range(12))
    cache = folder / "artifacts/latents"
    cache.mkdir(parents=True)
    write_latents(cache, rows, latents, (16, 8, 8), ["lift", ""], rng.normal(size=(2, 4, 1024)), {})
    values = compose(changes.pop("profile"), ROOT)
    values["world_model"] |= changes
    values["world_model"]["training"]["deepspeed"] = str(ROOT / values["world_model"]["training"]["deepspeed"])
    make_repository(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def dry_stage(free: int) -> None:
    """The stage, told to run dry on a machine with `free` bytes to spare."""
    sys.argv, dry_run._free = ["stage", "--dry-run"], lambda: free
    with Path("said").open("a") as stream, contextlib.redirect_stdout(stream):
        run_stage("world_model", world_model.main)


def said(folder: Path, ranks: int, free: int) -> str:
    before = {path for path in folder.rglob("*")}
    assert run_ranks(folder, ranks, dry_stage, free) == ""
    after = {path for path in folder.rglob("*")} - {folder / "said", *folder.glob("stderr-*")}
    assert after == before, "it left something behind"
    return (folder / "said").read_text()


def test_two_billion_parameters_are_outlined_where_they_do_not_fit(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "root", profile="cosmos-predict2-2b", weights=None)
    text = said(folder, 2, free=10**9)
    assert f"parameters: {COSMOS_2B:,}, of which {COSMOS_2B:,} are trained" in text
    assert "built: the outline" in text and "1.0 GB to spare" in text
    assert "batch: 2 ranks x 4 samples x 1 micro-batches = 8" in text
    assert f"weights: {4 * COSMOS_2B / 1e9:.1f} GB" in text and f"gradients: {2 * COSMOS_2B / 1e9:.1f} GB" in text
    clip = 3 * 16 * 8 * 8 * 4
    assert text.count(f"4 clips, {4 * clip / 1e3:.1f} kB: video_only ") == 2 * 2, "two steps of two ranks"


def test_what_fits_is_built_with_its_engine(tmp_path: Path) -> None:
    lora = {"rank": 2, "alpha": 2.0, "dropout": 0.0, "targets": ["to_q"]}
    folder = workspace(tmp_path / "root", profile="default", patch_size=2, tuning="lora", lora=lora)
    text = said(folder, 2, free=10**10)
    assert "built: network, optimiser and DeepSpeed engine" in text
    trained = 2 * 2 * 2 * (2 * 128)  # layers, attentions, rank, in + out
    assert f"of which {trained:,} are trained" in text


def test_nothing_to_train_is_said(tmp_path: Path) -> None:
    folder = workspace(
        tmp_path / "root", profile="default", patch_size=2, tuning="none", weights="somewhere", guardrail="none"
    )
    assert "there is nothing to train" in run_ranks(folder, 1, dry_stage, 10**10)


def held(configuration: str) -> None:
    """Write what `memory` foretells of the toy's engine, and what its tensors take."""
    _, ranks = initialise()
    training = Training(
        steps=9,
        batch_size=8,
        accumulation=1,
        learning_rate=1e-3,
        warmup_steps=1,
        weight_decay=0.1,
        betas=(0.9, 0.99),
        clip_norm=1.0,
        ema_decay=0.9,
        checkpoint_every=9,
        deepspeed=configuration,
    )
    model = ToyWorldModel(lora=False, checkpointing=False).model
    foretold = dry_run.memory(model, training, ranks)
    engine, optimizer = build_engine(model, training, ranks)
    begin_optimizer(engine, optimizer, 0)
    moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)
    stepped = sum(tensor.nbytes for tensor in optimizer.state) if engine.zero_optimization_stage() else 0
    weights = sum(getattr(weight, "ds_tensor", weight).nbytes for weight in trainable(model).values())
    write_json("held.json", {"weights": weights, "float32 copy": stepped, "optimiser": moments, "foretold": foretold})


@pytest.mark.parametrize("stage", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 1, 2)), 3])
def test_memory_is_what_an_engine_holds(tmp_path: Path, stage: int) -> None:
    from tests.unit.training.test_training import configuration
    from world2act.core.storage import read_json

    assert run_ranks(tmp_path / "run", 2, held, configuration(tmp_path, stage)) == ""
    found = read_json(tmp_path / "run/held.json")
    for key, foretold in found.pop("foretold").items():
        if key != "gradients":
            (own,) = (value for name, value in found.items() if key.startswith(name))
            assert own == pytest.approx(foretold, rel=0.02), key


def test_a_misspelt_option_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        launch("stages.world_model", "--dryrun")
    assert caught.value.code == 2 and "--dryrun" in capsys.readouterr().err
