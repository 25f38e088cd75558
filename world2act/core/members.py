"""Members of a room, found by name: our own modules and those that installed packages add.

A room is a package such as `world2act.policies`. Its member NAME is the module `world2act.policies.NAME`, or else the
module to which an installed package's entry point NAME of the group `world2act.policies` refers. A member that is a
package may keep its parts in submodules (`params`, `policy`, ...), so that reading parameters does not import torch;
a member that is one module holds all of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from world2act.core.errors import BadInput


def find_member(name: str, *rooms: str) -> str | None:
    """The dotted name of the module of a member, from the first of the rooms that has it; None where none has."""
    if not name.isidentifier():
        return None
    for room in rooms:
        if find_spec(f"{room}.{name}"):
            return f"{room}.{name}"
        for entry_point in entry_points(group=room, name=name):
            return entry_point.module
    return None


def load_members(room: str, needs: str) -> dict[str, ModuleType]:
    """Import every member of a room that has the attribute `needs`: our own by name, then those of other packages."""
    modules = {info.name: f"{room}.{info.name}" for info in iter_modules(import_module(room).__path__)}
    modules |= {entry_point.name: entry_point.module for entry_point in entry_points(group=room)}
    loaded = {name: import_module(module) for name, module in modules.items()}
    return {name: module for name, module in loaded.items() if hasattr(module, needs)}


def load_member(name: str, part: str, needs: str, rooms: Sequence[str], where: str | Path, key: str) -> ModuleType:
    """Import the part of a member: its submodule `part` where it has one, else the member itself.

    Args:
        needs: the attribute that makes a module such a part.
        where, key: who asked for the member, for the message.

    Raises:
        BadInput: no room has the member, or it lacks that part.
    """
    member = find_member(name, *rooms)
    module = import_module(part_name(member, part)) if member else None
    if module is None or not hasattr(module, needs):
        found = f"{name}, which has no {needs}" if module else name
        expected = f"a module of {' or '.join(rooms)}, or one that an installed package adds under that entry point"
        raise BadInput(where, key, found, expected, "correct the name, or install the package that provides it")
    return module


def part_name(member: str, part: str) -> str:
    """The dotted name of the module that holds a part of a member."""
    spec = find_spec(member)
    folders = spec.submodule_search_locations if spec else None
    has_part = folders and any(module.name == part for module in iter_modules(folders))
    return f"{member}.{part}" if has_part else member
