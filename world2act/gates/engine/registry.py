"""The gates that exist: the modules of `world2act.gates`, and the entry points in the group of that name."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, runtime_checkable

import world2act.gates
from world2act.core.errors import BadInput
from world2act.core.members import load_member
from world2act.core.params import Params
from world2act.gates.engine.tables import Table

ROOM = "world2act.gates"


@runtime_checkable
class Gate(Protocol):
    """A module that measures one artifact and states what must hold of it.

    A gate of another package may have thresholds, in the section `gates.<name>` of params.yaml. Its module then has a
    class `Limits`, a `world2act.core.params.section.Section`, and reads them as `params.gates.block(Limits, name)`.
    """

    def tables(self, artifacts: Path, params: Params) -> list[Table]:
        """Measure artifacts/<name of the gate>. Raises `BadInput` when a file is missing or damaged."""


def gate_names() -> list[str]:
    """The artifacts that have a gate: ours and those of installed packages, sorted."""
    ours = {module.name for module in iter_modules(world2act.gates.__path__) if not module.ispkg}
    return sorted(ours | {entry.name for entry in entry_points(group=ROOM)})


def find_gate(artifact: str) -> Gate:
    """The gate of an artifact. Ours takes precedence over one of the same name in another package.

    Raises:
        BadInput: there is no such gate.
    """
    names = gate_names()
    if artifact not in names:
        expected, remedy = f"one of {', '.join(names)}", "name an artifact that has a gate"
        raise BadInput("stages.validate", "", artifact, expected, remedy)
    module = load_member(artifact, "gate", "tables", [ROOM], "stages.validate", "")
    assert isinstance(module, Gate)
    return module
