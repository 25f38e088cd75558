"""Starting DVC so that the stages run in this Python environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def dvc_command(*arguments: str) -> list[str]:
    """The command line of DVC in this environment."""
    return [sys.executable, "-m", "dvc", *arguments]


def stage_environment() -> dict[str, str]:
    """This process's variables, in which the `python` of dvc.yaml is this one, its environment activated or not."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
