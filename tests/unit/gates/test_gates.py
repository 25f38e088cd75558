"""Every gate is green on a good artifact. It is red and names the row when any one thing in the artifact is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.gate_artifacts import (
    JUDGED,
    ROOT,
    TASKS,
    edit,
    make_params,
    poison,
    red,
)
from world2act.core.errors import BadInput, GateFailed
from world2act.core.params import compose, parse_params
from world2act.core.storage import read_json, sha256, write_json, write_tensors
from world2act.data.array_store import ArrayStore
from world2act.data.latent_cache import open_latents
from world2act.gates.engine.registry import gate_names
from world2act.gates.engine.validate import validate

PARAMS = make_params()
TOY_GATE = """
from dataclasses import dataclass
from world2act.core.params.section import Section
from world2act.gates.engine.tables import Table
from world2act.gates.engine.vocabulary import at_least, rebuild

class Limits(Section):
    least: int

@dataclass
class Toy:
    size: int

def tables(artifacts, params):
    limits = params.gates.block(Limits, "toy")
    size = int((artifacts / "toy/size.txt").read_text())
    check = at_least("size", limits.least, "The toy is large.", remedy=rebuild("toy"))
    return [Table.of("toys", Toy, [Toy(size)], ("size",), [check])]
"""


@pytest.mark.parametrize("artifact", gate_names())
def test_good_artifact_is_green_and_deterministic(artifact: str, artifacts: Path) -> None:
    validate(artifact, artifacts, PARAMS)
    first = sha256("reports")
    results = read_json(f"reports/gates/{artifact}.json")
    assert results["success"] and all(record["success"] for record in results["expectations"])
    pages = sorted(path.name for path in Path(f"reports/data_docs/{artifact}").iterdir())
    assert pages == sorted(["index.html", *{f"{record['table']}.html" for record in results["expectations"]}])
    assert not any(
        link in page.read_text()
        for page in Path("reports/data_docs").rglob("*.html")
        for link in ("<script src", "<link ")
    )
    validate(artifact, artifacts, PARAMS)
    assert sha256("reports") == first


def test_tokenizer(artifacts: Path) -> None:
    root = artifacts / "tokenizer"

    def change(rows: list[dict]) -> None:
        for row in rows:
            row["psnr_db"] = 10.0
        rows[1] |= {"psnr_db": 9.0, "frame_std": 0.0}

    edit(root / "reconstruction.parquet", change)
    write_json(root / "vae/config.json", {"latents_mean": [0.0, 1e6], "latents_std": [0.0, 1.0]})
    write_json(root / "text_tokenizer/tokenizer.json", {"model": {"vocab": {"a": 0}}})
    poison(root / "vae/diffusion_pytorch_model.safetensors")
    failed = red("tokenizer", artifacts)
    median = read_json("reports/gates/tokenizer.json")["expectations"][0]
    assert (median["observed"], median["expected"], median["success"]) == (10.0, "at least 20.0", False)
    assert ("clips", "over_still_db") in failed
    assert (failed["clips", "psnr_db"]["observed"]["min"], failed["clips", "psnr_db"]["failing"]) == (9.0, 8)
    assert failed["clips", "frame_std"]["failing_rows"][0]["skill_index"] == 1
    assert failed["channels", "latent_std"]["failing_rows"][0]["channel"] == 0
    assert failed["channels", "latent_mean"]["failing_rows"][0]["channel"] == 1
    assert failed["weights", "finite"]["failing_rows"] == [
        {"file": "vae/diffusion_pytorch_model.safetensors", "tensor": "encoder.weight", "finite": False}
    ]
    assert ("vocabulary", "size") in failed


def test_latents(artifacts: Path) -> None:
    root = artifacts / "latents"
    clips, cache = ArrayStore(root / "clips"), open_latents(root)
    for i, clip in enumerate(cache.clips):
        values = np.array(cache.latents(clip))
        values[:, 1] += 1
        values[:, 2] *= 0.1
        if i == 0:
            values[0, 0, 0, 0] = np.inf
        if i == 1:
            values[:] = values[0]
        if i == 2:
            values[0] = 1.0
        np.save(clips.path(clip.key), values)
    edit(
        root / "clips.parquet",
        lambda rows: [row | {"sha256": clips.digest(row["key"]) if i else "0" * 64} for i, row in enumerate(rows)],
    )
    texts = cache.prompt_store
    shutil.copy(texts.path(cache.stored_prompts[0].key), texts.path(cache.stored_prompts[1].key))
    edit(
        artifacts / "skills/skills.parquet", lambda rows: [*rows, rows[-1] | {"skill_index": 2, "start": 40, "end": 44}]
    )
    poison(artifacts / "tokenizer/text_encoder/model.safetensors")
    failed = red("latents", artifacts)
    assert [row["channel"] for row in failed["channels", "std"]["failing_rows"]] == [2]
    assert 1 in [row["channel"] for row in failed["channels", "mean"]["failing_rows"]]
    clip = {"dataset": "labelled", "episode_index": 1, "skill_index": 0, "task": "push"}
    assert failed["clips", "finite"]["failing_rows"] == [clip | {"finite": False}]
    assert failed["clips", "intact"]["failing_rows"] == [clip | {"intact": False}]
    assert failed["clips", "motion"]["failing_rows"] == [clip | {"skill_index": 1, "motion": 0.0}]
    assert failed["clips", "spread"]["failing_rows"] == [clip | {"episode_index": 2, "task": "reach", "spread": 0.0}]
    assert failed["skills", "cached"]["failing_rows"] == [
        {"dataset": "video_only", "episode_index": 19, "skill_index": 2, "cached": False}
    ]
    assert [row["row"] for row in failed["prompts", "nearest"]["failing_rows"]] == [0, 1]
    assert [row["row"] for row in failed["prompts", "intact"]["failing_rows"]] == [1]
    assert failed["provenance", "recorded and found"]["failing_rows"][0]["part"] == "text_encoder"


def test_world_model(artifacts: Path) -> None:
    root = artifacts / "world_model"

    def change(rows: list[dict]) -> None:
        for row in rows:
            row |= {"error_model": 5.0, "correlation": 0.15}
        rows[2]["error_first_frame"] *= 1.1
        rows[3]["episode_index"] = 0
        rows[4]["psnr_model"] = float("inf")
        rows[5]["error_nearest"] = float("nan")

    edit(JUDGED / "heldout.parquet", change)
    edit(JUDGED / "chains.parquet", lambda rows: rows[0].update(error=float("nan")))
    edit(JUDGED / "positions.parquet", lambda rows: rows[0].update(read_m=[float("nan"), 0.0]))
    write_json(root / "config.json", {"latents_sha256": "0" * 64})
    poison(root / "transformer/diffusion_pytorch_model.safetensors")
    failed = red("world_model", artifacts)
    assert set(failed) == {
        ("clips", "disagreement"),
        ("clips", "heldout"),
        ("clips", "finite"),
        ("chains", "finite"),
        ("chains", "heldout"),
        ("positions", "finite"),
        ("positions", "heldout"),
        ("comparison", "over_first_frame"),
        ("comparison", "over_skill_mean"),
        ("comparison", "over_ridge"),
        ("comparison", "correlation_gain"),
        ("weights", "finite"),
        ("provenance", "recorded and found"),
    }
    assert failed["clips", "disagreement"]["failing_rows"][0]["disagreement"] == pytest.approx(1 / 11, rel=1e-3)
    assert failed["clips", "heldout"]["failing_rows"][0]["episode_index"] == 0
    assert failed["comparison", "correlation_gain"]["observed"] == pytest.approx(0.05)


def test_rollouts(artifacts: Path) -> None:
    root = artifacts / "rollouts"

    def change(rows: list[dict]) -> None:
        rows[1] |= {"skill_index": 3, "prompt": ""}
        rows[2] |= {"first_frame_sha256": "none", "sampler": ""}
        rows[3] |= {"sampler_seed": 0, "world_model_sha256": "0" * 64}
        for row in rows[6:]:
            row |= {"seed": 300}
        rows[7] |= {"latents": 5}

    edit(root / "rollouts.parquet", change)
    values = np.load(root / "latents.npy")
    values[:, 0] += 2
    values[:, 1] *= 3
    values[0] = np.nan
    values[12:18] = values[12]
    np.save(root / "latents.npy", values)
    failed = red("rollouts", artifacts)
    assert failed["skills", "finite"]["failing_rows"][0]["rollout"] == 0
    assert failed["skills", "skill_index and expected_skill"]["failing"] == 1
    assert failed["skills", "offset and expected_offset"]["failing"] == 1
    assert failed["skills", "motion"]["failing_rows"][0] == {
        "rollout": 1,
        "skill_index": 0,
        "task": "push",
        "seed": 200,
        "motion": 0.0,
    }
    assert failed["skills", "prompt"]["failing"] == failed["skills", "sampler"]["failing"] == 1
    assert failed["skills", "first_frame_sha256"]["failing_rows"][0]["first_frame_sha256"] == "none"
    assert {row["sampler_seed"] for row in failed["skills", "sampler_seed"]["failing_rows"]} == {0}
    assert ("channels", "unmeasured") in failed
    assert failed["initial_states", "set"]["failing_rows"][0]["set"] == "test"
    assert failed["initial_states", "rollouts"]["failing_rows"][0] == {"task": "push", "seed": 201, "rollouts": 0}
    assert failed["provenance", "recorded and found"]["failing"] == 1


def test_rollouts_that_drift(artifacts: Path) -> None:
    values = np.load(artifacts / "rollouts/latents.npy")
    values[:, 0] += 2
    values[:, 1] *= 3
    np.save(artifacts / "rollouts/latents.npy", values)
    failed = red("rollouts", artifacts)
    assert set(failed) == {("channels", "shift"), ("channels", "spread")}
    assert [row["channel"] for row in failed["channels", "shift"]["failing_rows"]] == [0]
    assert [row["channel"] for row in failed["channels", "spread"]["failing_rows"]] == [1]


def test_base_policy(artifacts: Path) -> None:
    root = artifacts / "base_policy"

    def change(rows: list[dict]) -> None:
        for row in rows:
            row["success"] = False
        rows[0]["seed"] = 999
        rows[1] |= {"success": None, "error": "the renderer died"}

    edit(root / "check.parquet", change)
    write_json(root / "statistics.json", {"action": {"min": [-1.0, 2.0], "max": [1.0, 1.0]}})
    poison(root / "model.safetensors")
    failed = red("base_policy", artifacts)
    assert failed["check", "success_gain"]["observed"] == 0
    assert ("check", "paired") in failed and ("check", "error_share") in failed
    assert failed["statistics", "max and min"]["failing_rows"][0]["dimension"] == 1
    assert ("weights", "finite") in failed


def test_bridge(artifacts: Path) -> None:
    def change(rows: list[dict]) -> None:
        for i, row in enumerate(rows):
            row |= {"rank": 3 if i % 4 else 1, "rank_same_skill": 2, "cosine": 2.0 if i == 5 else 0.5}
        rows[6]["rank"] = 9

    edit(artifacts / "bridge/heldout.parquet", change)
    write_tensors(artifacts / "bridge/model.safetensors", {"video_adapter.weight": np.zeros((2, 2), np.float32)})
    failed = red("bridge", artifacts)
    assert failed["retrieval", "times_chance"]["observed"] == 2
    assert failed["retrieval", "times_chance_same_skill"]["severity"] == "warning"
    assert [row["clip"] for row in failed["clips", "cosine"]["failing_rows"]] == [5]
    assert [row["clip"] for row in failed["clips", "candidates and rank"]["failing_rows"]] == [6]
    assert [row["part"] for row in failed["parts", "tensors"]["failing_rows"]] == ["action_adapter", "action_decoder"]
    assert failed["weights", "largest"]["observed"] == 0


def test_a_warning_stops_nothing(artifacts: Path) -> None:
    edit(artifacts / "bridge/heldout.parquet", lambda rows: [row | {"rank_same_skill": 2} for row in rows])
    assert validate("bridge", artifacts, PARAMS)["warnings"] == 1
    assert read_json("reports/gates/bridge.json")["success"]


def test_post_train(artifacts: Path) -> None:
    root = artifacts / "post_train"

    def change(rows: list[dict]) -> None:
        for row in rows:
            row |= {"residual": 0.9, "cosine": 0.6 - 0.1 * row["step"]}
        rows[3]["step"] = 2
        rows[4]["loss"] = -1.0
        rows[5]["cosine"] = 3.0

    edit(root / "history.parquet", change)
    poison(root / "model.safetensors")
    write_json(root / "config.json", {"base_sha256": "0" * 64})
    failed = red("post_train", artifacts)
    assert ("history", "step") in failed
    assert failed["curves", "loss"]["failing_rows"] == [{"step": 4, "loss": -1.0}]
    assert failed["curves", "cosine"]["failing_rows"] == [{"step": 5, "cosine": 3.0}]
    assert failed["course", "residual"]["observed"] == 0.9
    assert failed["course", "cosine_gain"]["observed"] == pytest.approx(-0.8)
    assert failed["weights", "finite"]["failing_rows"][0]["file"] == "model.safetensors"
    assert failed["provenance", "recorded and found"]["failing"] == 2


def test_post_train_that_diverged(artifacts: Path) -> None:
    edit(
        artifacts / "post_train/history.parquet",
        lambda rows: [row | {"loss": float("nan")} if row["step"] == 7 else row for row in rows],
    )
    failed = red("post_train", artifacts)
    assert failed["curves", "unmeasured"]["failing_rows"] == [{"step": 7, "unmeasured": "loss"}]


def test_evaluate(artifacts: Path) -> None:
    root = artifacts / "evaluate"

    def change(policy: str, scene: str, **values: object) -> None:
        path = root / "episodes" / policy / f"{scene}.json"
        write_json(path, read_json(path) | values)

    change("base", "reach-300", success=False, error="the renderer died")
    change("base", "push-300", actions=[[2.0] * 4] * 5)
    change("post_train", "reach-300", steps=500)
    change("post_train", "push-300", success=None, error="the renderer died")
    (root / "episodes/random/push-301.json").unlink()
    change("random", "reach-301", seed=200)
    episode = read_json(root / "episodes/random/reach-300.json")
    change("random", "reach-300", protocol=episode["protocol"] | {"simulator": "another"})
    shutil.rmtree(root / "videos")
    poison(artifacts / "base_policy/model.safetensors")
    failed = red("evaluate", artifacts)
    assert failed["episodes", "outcome"]["failing_rows"][0] | {"outcome": ""} == {
        "policy": "base",
        "task": "reach",
        "seed": 300,
        "outcome": "",
    }
    assert failed["episodes", "largest_action"]["failing_rows"][0]["policy"] == "base"
    assert failed["episodes", "steps"]["failing_rows"][0]["steps"] == 500
    assert failed["episodes", "steps and actions"]["failing"] == 1
    assert {row["policy"] for row in failed["policies", "error_share"]["failing_rows"]} == {"base", "post_train"}
    assert {row["protocols"] for row in failed["policies", "protocols"]["failing_rows"]} == {2}
    assert failed["scenes", "set"]["failing_rows"][0]["seed"] == 200
    assert {"task": "push", "seed": 301, "missing": "random"} in failed["scenes", "missing"]["failing_rows"]
    assert ("rates", "recorded and found") in failed
    assert [row["videos"] for row in failed["videos", "videos"]["failing_rows"]] == [0, 0]
    assert failed["provenance", "recorded and found"]["failing_rows"][0]["part"] == "base"


def test_missing_and_damaged_artifacts_name_themselves(artifacts: Path) -> None:
    (artifacts / "bridge/heldout.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BadInput, match=r"bridge/heldout\.parquet"):
        validate("bridge", artifacts, PARAMS)
    whole = (artifacts / "post_train/model.safetensors").read_bytes()
    (artifacts / "post_train/model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(BadInput, match=r"post_train/model\.safetensors"):
        validate("post_train", artifacts, PARAMS)
    shutil.rmtree(artifacts / "demos/labelled")
    with pytest.raises(BadInput, match=r"demos/labelled/meta/info\.json"):
        validate("demos", artifacts, PARAMS)
    with pytest.raises(BadInput, match="one of base_policy, bridge"):
        validate("nothing", artifacts, PARAMS)


def test_a_gate_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its entry point; its thresholds are a section of params.yaml, which its own class checks."""
    package = tmp_path / "packages"
    (package / "toy_gate-1.dist-info").mkdir(parents=True)
    (package / "toy_gate-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toy-gate\nVersion: 1\n")
    (package / "toy_gate-1.dist-info/entry_points.txt").write_text("[world2act.gates]\ntoy = toy_gate\n")
    (package / "toy_gate.py").write_text(TOY_GATE)
    monkeypatch.syspath_prepend(package)
    monkeypatch.chdir(tmp_path)
    values = compose("default", ROOT)
    values["gates"]["toy"] = {"least": 3}
    (tmp_path / "artifacts/toy").mkdir(parents=True)
    (tmp_path / "artifacts/toy/size.txt").write_text("2")
    assert "toy" in gate_names()
    with pytest.raises(GateFailed, match="The toy is large"):
        validate("toy", tmp_path / "artifacts", parse_params(values, "a test"))
    values["gates"]["toy"] = {"least": "three"}
    with pytest.raises(BadInput, match=r"gates\.toy\.least"):
        parse_params(values, "a test")


def test_stage_stops_the_line(artifacts: Path) -> None:
    """As DVC runs it: a red gate writes its results, prints row, value and remedy, and exits with an error."""
    values = compose("default", ROOT)
    values["demos"] |= {"tasks": list(TASKS)}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    edit(artifacts / "bridge/heldout.parquet", lambda rows: [row | {"rank": 4} for row in rows])
    command = [sys.executable, "-m", "stages.validate", "bridge"]
    run = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=False
    )
    assert run.returncode == 2
    assert (
        "GateFailed" in run.stderr
        and "times_chance" in run.stderr
        and "remedy:" in run.stderr
        and "Traceback" not in run.stderr
    )
    assert not json.loads(Path("reports/gates/bridge.json").read_text())["success"]
    assert not Path("reports/timing/validate_bridge.json").exists()
