"""The `world2act` command, as a user calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from world2act.core.profiles import write_profile

_STAGES = """
stages:
  hello:
    cmd: python -c 'import sys; print(sys.prefix)' > prefix.txt
    outs: [prefix.txt]
"""


def world2act(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "world2act.cli", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline of one stage with the real profiles."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "requirements.lock").symlink_to(ROOT / "requirements.lock")
    (tmp_path / "dvc.yaml").write_text(_STAGES)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text((ROOT / ".dvc/config").read_text())
    return tmp_path


def test_help_names_every_command(folder: Path) -> None:
    shown = world2act(folder, "--help")
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("profile", "repro", "summary", "check"))


def test_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "dvc", "mujoco", "pandas", "pydantic")
    code = f"import sys, world2act.cli; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_profile_without_a_name_shows_the_one_in_force(folder: Path) -> None:
    write_profile("tiny", folder)
    shown = world2act(folder, "profile")
    assert "in force: tiny" in shown.stdout and "default" in shown.stdout
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("workers: 2", "workers: 1"))
    assert "base.workers edited by hand" in world2act(folder, "profile").stdout


def test_unknown_profile_is_one_message_and_exit_code_2(folder: Path) -> None:
    failed = world2act(folder, "profile", "enormous")
    assert failed.returncode == 2
    assert "one of " in failed.stderr and "default, " in failed.stderr and "Traceback" not in failed.stderr


def test_outside_of_a_pipeline_it_says_so(tmp_path: Path) -> None:
    failed = world2act(tmp_path, "check")
    assert failed.returncode == 2 and "no dvc.yaml" in failed.stderr


def test_repro_refuses_wrong_parameters_before_anything_runs(folder: Path) -> None:
    write_profile("default", folder)
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("seed: 0", "sead: 0"))
    failed = world2act(folder, "repro")
    assert failed.returncode == 2 and "base.sead" in failed.stderr
    assert not (folder / "prefix.txt").exists()


def test_repro_runs_stages_in_its_own_environment(folder: Path) -> None:
    write_profile("default", folder)
    world2act(folder, "repro", PATH="/usr/bin:/bin")
    assert (folder / "prefix.txt").read_text().strip() == sys.prefix


def test_repro_hands_on_the_exit_code_of_a_failed_stage(folder: Path) -> None:
    write_profile("default", folder)
    (folder / "dvc.yaml").write_text("stages:\n  fails:\n    cmd: exit 2\n")
    failed = world2act(folder, "repro")
    assert failed.returncode not in (0, 2) and "The pipeline stopped" in failed.stderr


def test_check_renders_and_finds_the_locked_packages(folder: Path) -> None:
    shown = world2act(folder, "check")
    assert shown.returncode == 0, shown.stdout
    assert "a frame by osmesa" in shown.stdout


def test_check_names_what_is_missing(folder: Path) -> None:
    (folder / "requirements.lock").unlink()
    (folder / "requirements.lock").write_text("no-such-package==1.0 \\\n    --hash=sha256:0\ntyper==0.0.1\n")
    shown = world2act(folder, "check", MUJOCO_GL="bogus")
    assert shown.returncode == 1
    assert "no-such-package (found None" in shown.stdout and "typer (found" in shown.stdout
    assert "missing  off-screen rendering" in shown.stdout and "make setup" in shown.stdout
