"""A copy of this tree as a user has it: a git repository of its own, whose path holds a space."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT
from world2act.processes.dvc_command import stage_environment

CLONE = "a clone"


@dataclass(frozen=True)
class Clone:
    """A copy of this tree, in a git repository of its own."""

    root: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as in an activated environment; `python` and `world2act` run the copy's code."""
        variables = stage_environment() | {
            "PYTHONPATH": str(self.root),
            "PREFECT_HOME": str(self.root.parent / "prefect"),
            "COLUMNS": "200",
        }
        if command[0] == "world2act":
            command = (sys.executable, "-m", "world2act.cli", *command[1:])
        return subprocess.run(command, cwd=self.root, env=variables | environment, capture_output=True, text=True)

    def must(self, *command: str, **environment: str) -> str:
        """Run a command that has to succeed. Returns: what it printed."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def copy(self, folder: Path) -> Clone:
        """A copy of it, with what its runs wrote."""
        shutil.copytree(self.root, folder, symlinks=True)
        return Clone(folder)


def make_clone(folder: Path) -> Clone:
    """Copy what git knows of this tree, or would know after `git add`, and put the tiny profile in force."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    clone = Clone(folder / CLONE)
    for name in filter(None, listed):
        if (ROOT / name).exists():
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone.root / name)
    (clone.root / "dvc.lock").unlink(missing_ok=True)
    clone.must("git", "init", "--quiet")
    clone.must("git", "config", "user.name", "test")
    clone.must("git", "config", "user.email", "test@localhost")
    clone.must("world2act", "profile", "tiny", "--force")
    clone.must("git", "add", "--all")
    clone.must("git", "commit", "--quiet", "--message", "a clone")
    return clone
