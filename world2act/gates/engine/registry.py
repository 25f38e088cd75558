"""Which gates there are: the modules of `world2act.gates`, and the entry points in the group of that name."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

import world2act.gates
from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.gates.engine.tables import Table

GROUP = "world2act.gates"


class Gate(Protocol):
    """A module that measures one artifact and states what must hold of it."""

    def tables(self, artifacts: Path, params: Params) -> list[Table]:
        """Measure artifacts/<name of the gate>. Raises `BadInput` when a file is missing or damaged."""


def gate_names() -> list[str]:
    """The artifacts that have a gate: ours and those of installed packages, sorted."""
    ours = {module.name for module in iter_modules(world2act.gates.__path__) if not module.ispkg}
    return sorted(ours | {entry.name for entry in entry_points(group=GROUP)})


def find_gate(artifact: str) -> Gate:
    """The gate of an artifact; one of ours goes before one of the same name in another package.

    Raises:
        BadInput: there is no such gate.
    """
    if any(module.name == artifact and not module.ispkg for module in iter_modules(world2act.gates.__path__)):
        return cast(Gate, import_module(f"world2act.gates.{artifact}"))
    for entry in entry_points(group=GROUP, name=artifact):
        return cast(Gate, entry.load())
    raise BadInput(
        "stages.validate",
        "",
        artifact,
        f"one of {', '.join(gate_names())}",
        "name an artifact to validate",
    )
