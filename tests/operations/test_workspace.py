"""A workspace that a killed run left: DVC's files made whole, the lock given back, no process that goes on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from flows.workspace import WorkspaceBusy, hold_workspace, keep_lock, merge_entry, read_entries
from tests.helpers.paths import ROOT
from tests.helpers.service import long_stage, make_workspace, ran, until
from world2act.core.errors import BadInput
from world2act.processes.dvc_command import dvc_command, stage_environment


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of three stages that ran."""
    root = make_workspace(tmp_path_factory.mktemp("made") / "workspace")
    (root / "go").touch()
    variables = stage_environment() | {"PYTHONPATH": str(ROOT)}
    subprocess.run(dvc_command("repro", "--quiet"), cwd=root, env=variables, check=True)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    root = shutil.copytree(made, tmp_path / "workspace", symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return root


def test_dvc_lock_that_was_cut_off_anywhere_comes_back(root: Path) -> None:
    keep_lock()
    lock = Path("dvc.lock")
    whole = lock.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        lock.write_bytes(whole[:length])
        with hold_workspace("test", 0):
            # cut behind a line of the last stage, the file looks whole, and DVC runs that stage again
            assert lock.read_bytes() == whole or list(read_entries(lock) or ()) == ["first", "long", "last"]
    lock.write_bytes(whole)
    keep_lock()
    lock.write_bytes(whole[: len(whole) // 2])
    with hold_workspace("test", 0):
        subprocess.run(dvc_command("repro", "--quiet"), env=stage_environment(), check=True)
    assert ran(root) == ["first", "long", "last"], "nothing was left to do"


def test_dvc_lock_that_was_cut_off_before_there_was_a_copy_says_so(root: Path) -> None:
    Path("dvc.lock").write_text("schema: '2.0'\nstages:\n  fir")
    with pytest.raises(BadInput, match=r"dvc\.lock(.|\n)*a complete dvc\.lock"), hold_workspace("test", 0):
        pass


def test_torn_list_of_locks_goes_and_a_whole_one_stays(root: Path) -> None:
    locks = Path(".dvc/tmp/rwlock")
    locks.write_text('{"read": {}, "wri')
    with hold_workspace("test", 0):
        assert not locks.exists()
    locks.write_text('{"read": {}, "write": {}}')
    with hold_workspace("test", 0):
        assert locks.exists()


def test_workspace_is_free_again_after_its_holder_ended(root: Path) -> None:
    held = "with hold_workspace('a-run', 0): print('held', flush=True); input()"
    script = f"from flows.workspace import hold_workspace\n{held}"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(WorkspaceBusy, match=rf"run a-run \(process {holder.pid} "), hold_workspace("test", 0):
        pass
    holder.kill()
    holder.wait()
    with hold_workspace("test", 5):
        pass


def test_entry_of_another_workspace_is_merged_beside_the_others(root: Path) -> None:
    before = read_entries(Path("dvc.lock"))
    assert before is not None
    changed = before["long"] | {"outs": [before["long"]["outs"][0] | {"md5": "0" * 32}]}
    merge_entry("long", changed)
    assert read_entries(Path("dvc.lock")) == before | {"long": changed}
    merge_entry("long", before["long"])
    with Repo() as repo:
        assert repo.status() == {}


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_killed_dvc_takes_its_stage_along(root: Path, shell: str) -> None:
    for name in ("go", "long.txt", "long.pid"):
        Path(name).unlink(missing_ok=True)
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--quiet"], env=stage_environment() | {"SHELL": shell}
    )
    stage = long_stage(root)
    dvc.kill()
    dvc.wait()
    until(lambda: not stage.is_running(), 5, "the stage goes on")


def test_every_command_of_the_pipeline_is_one_that_a_shell_hands_over_to() -> None:
    # a shell that stays between DVC and the stage would live on when DVC is killed, and the stage with it; bash hands
    # over its last command by itself, Debian's dash does not
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert all(re.fullmatch(r"exec python -m [\w. ]+", stage["cmd"]) for stage in stages.values())
