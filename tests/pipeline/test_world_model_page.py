"""The commands of docs/world-model.md, in order, after a real run; and that the commands it names in passing exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tests.helpers.clone import Clone
from tests.helpers.pages import team_commands
from tests.helpers.paths import ROOT
from world2act.cli import app

PAGE = (ROOT / "docs/world-model.md").read_text()


@pytest.mark.timeout(900)
def test_commands_of_the_page(tiny_run: Clone, tmp_path: Path) -> None:
    clone = tiny_run.copy(tmp_path / "a copy")
    shown = {line: clone.must(*shlex.split(line)) for line in team_commands(PAGE)}
    assert "parameters: " in shown["python -m world2act.training.launch stages.world_model --dry-run"]
    assert "up to date" in shown["dvc repro latents"]
    assert list((clone.root / "reports/view").glob("*.mp4"))


def test_what_the_page_names_exists() -> None:
    there = get_command(app).commands
    for page in (PAGE, (ROOT / "docs/policies.md").read_text()):
        for command in re.findall(r"`world2act ([\w-]+)", page):
            assert command in there, command
        for module in re.findall(r"python -m benchmarks\.(\w+)", page):
            assert (ROOT / f"benchmarks/{module}.py").exists(), module
    profiles = re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE)
    assert profiles and all((ROOT / f"conf/profile/{name}.yaml").exists() for name in profiles)
