"""README is law: every command in it is run by a test, this file's or one named here."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from typer.main import get_command

from tests.helpers.clone import Clone
from tests.helpers.pages import shell_commands, team_commands
from tests.helpers.paths import ROOT
from world2act.cli import app

README = (ROOT / "README.md").read_text()

# Commands that another test runs, and which.
ELSEWHERE = {
    "make repro": "tests/pipeline/test_setup.py (what it runs) and tests/pipeline/test_cli.py (repro)",
    "make test": ".ci/run, which is how this test is run",
    "make test-fast": "a part of `make test`; tests/pipeline/test_setup.py looks at its recipe",
    "source .venv/bin/activate": "tests/helpers/clone.py, Clone.run, puts the same environment first on PATH",
    "world2act profile tiny": "tests/helpers/clone.py, make_clone",
    "world2act profile default --force": "tests/unit/core/test_params.py::test_edited_params_are_kept_unless_forced",
    "python -m flows.pipeline": "tests/fixtures/pipeline_run.py, tiny_run",
    "make serve": "tests/operations/test_serve.py",
    "dvc exp run -S post_train.training.steps=3": "tests/pipeline/test_e2e.py, on a parameter of post_train",
}
# Commands run here, after a run of the pipeline, and something that they must show.
HERE = {
    "world2act check": "off-screen rendering",
    "world2act summary": "reports/report.html",
    "world2act profile": "in force: tiny",
    "world2act repro": "reports/report.html",
    "dvc dag": "validate_world_model",
    "dvc status": "up to date",
    "dvc metrics show": "success_base",
    "dvc plots show": "index.html",
    "dvc exp show --only-changed": "workspace",
    "python -m flows.pipeline --target rollouts": "stages are up to date",
}


def test_every_command_is_accounted_for() -> None:
    team = set(team_commands(README[README.index("## For a team") :]))
    own = README[README.index("## Your own demonstrations") : README.index("## Gates")]
    assert set(shell_commands(README)) == ELSEWHERE.keys() | HERE.keys() | team | set(team_commands(own))


def test_inline_commands_exist() -> None:
    """`make X` and `world2act X` in running text name targets and commands that there are."""
    makefile, there = (ROOT / "Makefile").read_text(), get_command(app).commands
    pages = README + "".join((ROOT / name).read_text() for name in ("CONTRIBUTING.md", "docs/demonstrations.md"))
    for target in re.findall(r"`make ([\w-]+)`", pages):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"`world2act (\w+)", pages):
        assert command in there, command


def test_paths_that_the_readme_names_exist() -> None:
    named = re.findall(r"`([\w/.]+\.(?:py|yaml|md))`|\]\(([\w/.]+)\)", README)
    for path in {a or b for a, b in named}:
        folders = ("", "skills", "world_model", "bridge")
        places = [ROOT / path, *(ROOT / "world2act" / folder / path for folder in folders)]
        assert any(place.exists() for place in places), path


def test_stages_that_the_readme_lists_are_those_of_dvc_yaml() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    listed = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(stage for stage in stages if not stage.startswith("validate_"))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", HERE)
def test_command_works_after_a_run(tiny_run: Clone, command: str) -> None:
    assert HERE[command] in tiny_run.must(*shlex.split(command))
