"""What a stage's result depends on is its identity: every parameter but where it runs, the code, and what it reads."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

from tests.helpers.paths import ROOT
from world2act.core.identity import digest, stage_identity

TRAINED = ("tokenizer", "world_model", "bridge", "base_policy", "post_train")
WHERE_IT_RUNS = {"base.ranks", "base.workers"}
WHERE_IT_RUNS |= {f"{stage}.training.{key}" for stage in TRAINED for key in ("accumulation", "checkpoint_every")}
WHERE_IT_RUNS |= {"world_model.gradient_checkpointing"}
WHERE_IT_RUNS |= {f"base_policy.{family}.gradient_checkpointing" for family in ("gr00t", "cosmos_policy")}


def leaves(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def another(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}-other"
        case list():
            return [*value, value[0] if value else 1]
        case None:
            return "other"
        case _:
            return {"other": value}


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_but_where_it_runs_begins_another_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with Repo() as repository:
        deps = repository.stage.load_one(name=name).deps
        declared = {key for dep in deps if isinstance(dep, ParamsDependency) for key in dep.params}
    params = yaml.safe_load(Path("params.yaml").read_text())
    assert name in declared and declared & {"base", "base.seed"}, "a stage trains with parameters that DVC does not see"

    def identity(values: dict[str, Any]) -> str:
        read: dict[str, object] = {}
        for key in declared:
            found: Any = values
            for part in key.split("."):
                found = found[part]
            read[key] = found
        return digest({}, read, ())

    before, walked = identity(params), 0
    sections = {key.partition(".")[0] for key in declared}
    for path in leaves({section: params[section] for section in sections}):
        key = ".".join(path)
        if key.endswith("training.deepspeed") or not any(
            key == each or key.startswith(f"{each}.") for each in declared
        ):
            continue
        changed = copy.deepcopy(params)
        section = changed
        for part in path[:-1]:
            section = section[part]
        section[path[-1]] = another(section[path[-1]])
        assert (identity(changed) == before) == (key in WHERE_IT_RUNS), key
        walked += 1
    assert walked > 15


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of one stage that reads code, data, weights and a DeepSpeed file."""
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    stage = {"cmd": "true", "deps": ["code", "main.py", "input.txt"], "params": ["part"], "outs": ["out"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"part": stage}}))
    part = {"weights": "weights", "training": {"steps": 1, "deepspeed": "zero.json"}}
    Path("params.yaml").write_text(yaml.safe_dump({"part": part, "other": 1}))
    Path("code").mkdir()
    Path("code/page.css").write_text("a {}")
    Path("code/module.py").write_text("def f():\n    return 1\n")
    Path("main.py").write_text('"""What it does."""\n\nfrom code import f\n')
    Path("input.txt").write_text("7")
    Path("weights").mkdir()
    Path("weights/model").write_text("1")
    shutil.copy(ROOT / "infra/deepspeed/cpu.json", "zero.json")
    return tmp_path


def write(name: str, text: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(text)


def configure(**changes: object) -> Callable[[], object]:
    def change() -> None:
        Path("zero.json").write_text(json.dumps(json.loads(Path("zero.json").read_text()) | changes))

    return change


@pytest.mark.parametrize(
    "change",
    [
        write("code/module.py", "# why\ndef f():\n    '''It returns one.'''\n    return (1)\n"),
        write("main.py", "from code import f\n"),
        write("params.yaml", "part: {weights: weights, training: {steps: 1, deepspeed: zero.json}}\nother: 2\n"),
        configure(zero_optimization={"stage": 3}),
    ],
    ids=["comment and layout", "docstring", "another stage's parameter", "ZeRO stage"],
)
def test_what_changes_no_result_keeps_the_run(workspace: Path, change: Callable[[], object]) -> None:
    before = stage_identity("part")
    change()
    assert stage_identity("part") == before


@pytest.mark.parametrize(
    "change",
    [
        write("code/module.py", "def f():\n    return 2\n"),
        write("code/new.py", "x = 1\n"),
        write("code/page.css", "b {}"),
        write("main.py", "from code import g\n"),
        write("input.txt", "8"),
        write("weights/model", "2"),
        configure(bf16={"enabled": True}),
    ],
    ids=["code", "new module", "file of the code", "module", "data", "external weights", "precision"],
)
def test_what_changes_the_result_begins_another_run(workspace: Path, change: Callable[[], object]) -> None:
    before = stage_identity("part")
    change()
    assert stage_identity("part") != before
    assert stage_identity("part") != stage_identity("part", 2)
