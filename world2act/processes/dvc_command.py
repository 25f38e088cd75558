"""Starting DVC so that the stages run in this Python environment, and end with the process that started DVC."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from world2act.processes.lifetime import child_command


def dvc_command(*arguments: str) -> list[str]:
    """The command line of DVC in this environment; the thread that starts it must wait for it."""
    return child_command("dvc", *arguments)


def stage_environment() -> dict[str, str]:
    """This process's variables, in which the `python` of dvc.yaml is this one, its environment activated or not."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
