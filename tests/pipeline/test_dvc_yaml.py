"""dvc.yaml names what its stages read: the modules they import, the artifacts they open, a gate for each."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
WORKERS = [stage for stage in STAGES if not stage.startswith("validate_")]


def paths(entries: list[object]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}  # type: ignore[call-overload]


@cache
def imported_files(module: Path) -> frozenset[Path]:
    """Files of this project that a module imports, in functions too, and what those import in turn."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        for name in _imports(waiting.pop()):
            place = ROOT / name.replace(".", "/")
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_file() and file not in found:
                    found.add(file)
                    waiting.append(file)
    return frozenset(found)


def _imports(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("world2act.")}


def modules(stage: str) -> list[Path]:
    """The stage's own module; of a gate stage, the gate's besides."""
    gate = stage.removeprefix("validate_")
    names = [f"stages/{stage}.py"] if stage == gate else ["stages/validate.py", f"world2act/gates/{gate}.py"]
    return [ROOT / name for name in names]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_every_module_that_the_stage_runs(stage: str) -> None:
    deps = paths(STAGES[stage]["deps"])
    files = {file for module in modules(stage) for file in imported_files(module) if file.stat().st_size}
    assert {str(file) for file in files if not any(file.is_relative_to(ROOT / dep) for dep in deps)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_every_artifact_that_the_stage_opens(stage: str) -> None:
    text = "".join(module.read_text() for module in modules(stage))
    opened = set(re.findall(r'\bartifacts / f?"(\w+)', text, re.IGNORECASE)) - {stage}
    assert {f"artifacts/{name}" for name in opened} <= paths(STAGES[stage]["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_params_hold_every_section_that_the_stage_reads(stage: str) -> None:
    text = "".join(module.read_text() for module in modules(stage))
    read = set(re.findall(r"(?<!core\.)\bparams\.(?!yaml)(\w+)", text))
    declared = STAGES[stage].get("params", [])
    whole_file = {"params.yaml": None} in declared
    assert whole_file or read <= {key.partition(".")[0] for key in declared}


@pytest.mark.parametrize("stage", WORKERS)
def test_no_artifact_is_read_past_its_gate(stage: str) -> None:
    """A stage that measures an artifact for its gate comes before that gate."""
    deps = paths(STAGES[stage]["deps"])
    for name in (dep.removeprefix("artifacts/") for dep in deps if dep.startswith("artifacts/")):
        measures = paths(STAGES[stage]["outs"]) & paths(STAGES[f"validate_{name}"]["deps"])
        assert deps & {f"reports/gates/{name}.json", "reports/gates"} or measures


def test_pictures_and_measures_rerun_nothing_that_learns() -> None:
    for stage in ("tokenizer", "latents", "world_model", "rollouts", "bridge", "base_policy", "post_train"):
        deps = paths(STAGES[stage]["deps"])
        for room in ("world2act/films", "world2act/world_model/judging", "world2act/report", "reports/films"):
            assert not any(dep == room or dep.startswith(f"{room}/") for dep in deps), (stage, room)


def upstream(stage: str) -> set[str]:
    """The stage and all that runs before it."""
    made = {out: name for name in STAGES for out in paths(STAGES[name]["outs"])}
    found, waiting = {stage}, [stage]
    while waiting:
        for dep in paths(STAGES[waiting.pop()]["deps"]):
            if dep in made and made[dep] not in found:
                found.add(made[dep])
                waiting.append(made[dep])
    return found


@pytest.mark.parametrize("learner", ["world_model", "base_policy"])
def test_a_touched_picture_or_exporter_retrains_nothing(learner: str) -> None:
    rooms = ("films", "report", "formats/exporters", "serving", "artifacts")
    touched = [file for room in rooms for file in (ROOT / "world2act" / room).rglob("*.py")]
    assert len(touched) > 20
    for stage in upstream(learner):
        for dep in paths(STAGES[stage]["deps"]):
            assert [file for file in touched if file.is_relative_to(ROOT / dep)] == [], (stage, dep)


def test_no_more_than_450_lines() -> None:
    """A stage is read at a glance."""
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 450


def test_every_stage_depends_on_the_lock() -> None:
    assert [stage for stage in STAGES if "requirements.lock" not in STAGES[stage]["deps"]] == []


def test_every_artifact_has_a_gate() -> None:
    for stage in WORKERS:
        if any(out.startswith("artifacts/") for out in paths(STAGES[stage]["outs"])):
            assert f"artifacts/{stage}" in STAGES[f"validate_{stage}"]["deps"]


def test_outputs_outlive_a_failed_run() -> None:
    """Without `persist`, DVC deletes a stage's last good output before it runs the stage."""
    for stage, entry in STAGES.items():
        for out in entry["outs"]:
            if not isinstance(out, str) and next(iter(out)).startswith("artifacts/"):
                assert next(iter(out.values()))["persist"], stage
