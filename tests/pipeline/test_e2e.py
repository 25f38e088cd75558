"""The whole pipeline on the tiny profile: all is there, nothing runs twice, the same seed gives the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.clone import Clone, make_clone
from tests.helpers.paths import ROOT
from world2act.core.storage import read_json, sha256
from world2act.policies.base import load_policy

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
pytestmark = pytest.mark.timeout(1200)


def outputs(stage: str) -> list[str]:
    entries = [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def ran(text: str) -> set[str]:
    return set(re.findall(r"Running stage '(\w+)'", text))


def test_every_stage_leaves_what_it_promises(tiny_run: Clone) -> None:
    for stage in STAGES:
        for path in outputs(stage):
            place = tiny_run.root / path
            assert place.is_file() or any(place.rglob("*")), f"{stage} left no {path}"


def test_every_artifact_has_a_green_gate(tiny_run: Clone) -> None:
    gates = {path.stem: read_json(path) for path in (tiny_run.root / "reports/gates").glob("*.json")}
    assert gates.keys() == {stage.removeprefix("validate_") for stage in STAGES if stage.startswith("validate_")}
    for name, gate in gates.items():
        assert gate["success"] and gate["expectations"], name


def test_artifacts_hold_no_path_of_the_machine(tiny_run: Clone) -> None:
    here = str(tiny_run.root).encode()
    for path in (tiny_run.root / "artifacts").rglob("*"):
        assert not path.is_file() or here not in path.read_bytes(), path


def test_report_is_one_file_that_loads_nothing_from_outside(tiny_run: Clone) -> None:
    page = (tiny_run.root / "reports/report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"url\((?!['\"]?(data:|#))", page)


def test_summary_names_stages_and_report(tiny_run: Clone) -> None:
    shown = tiny_run.must("world2act", "summary")
    assert "world_model" in shown and "reports/report.html" in shown and "not run" not in shown


def test_second_run_runs_nothing(tiny_run: Clone) -> None:
    assert "up to date" in tiny_run.must("dvc", "status")
    assert ran(tiny_run.must("dvc", "repro")) == set()


def test_a_parameter_of_post_train_reruns_it_and_what_follows(tiny_run: Clone, tmp_path: Path) -> None:
    copy = tiny_run.copy(tmp_path / "a copy")
    text = copy.must("dvc", "exp", "run", "-S", "post_train.training.steps=3")
    assert ran(text) == {"post_train", "validate_post_train", "evaluate", "validate_evaluate", "report"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["behaviour_cloning", "cosmos_policy"])
def test_another_family_reruns_the_policies_alone(tiny_run: Clone, tmp_path: Path, family: str) -> None:
    copy = tiny_run.copy(tmp_path / "a copy")
    text = copy.must("dvc", "exp", "run", "-S", f"base_policy.family={family}")
    policies = {"base_policy", "post_train", "evaluate"}
    assert ran(text) == policies | {f"validate_{stage}" for stage in policies} | {"report"}
    assert load_policy(copy.root / "artifacts/post_train").base.__class__.__module__.split(".")[2] == family
    assert f"tags: [robotics, {family}]" in (copy.root / "artifacts/post_train/base/README.md").read_text()


@pytest.mark.slow
def test_two_runs_from_scratch_write_the_same_bytes(tiny_run: Clone, tmp_path: Path) -> None:
    again = make_clone(tmp_path)
    again.must("dvc", "repro", "rollouts")
    for name in ("demos", "skills", "tokenizer", "latents", "world_model", "rollouts"):
        first, second = (clone.root / "artifacts" / name for clone in (tiny_run, again))
        files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
        assert [path for path in files if sha256(first / path) != sha256(second / path)] == [], name
        assert sha256(first) == sha256(second), name
