"""Sections with blocks of members: ours and those of installed packages are checked by the same rules."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from world2act.core.params.blocks import Blocks, block_class
from world2act.core.params.section import Count, Section

MODULE = """
from world2act.core.params.section import Count, Section

class Parameters(Section):
    width: Count
    depth: Count
"""


class Toys(Blocks):
    ROOM: ClassVar[str] = "toy_room"
    CLASS: ClassVar[str] = "Parameters"
    KEY: ClassVar[str] = "kind"

    kind: Annotated[str, Field(pattern="^[a-z_]+$")]
    steps: Count


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The room has the member `ours` and a module that is no member; another distribution adds `theirs`."""
    package, info = tmp_path / "toy_room", tmp_path / "their_toys-1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "ours.py").write_text(MODULE)
    (package / "helper.py").write_text("")
    (tmp_path / "their_toys.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-toys\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[toy_room]\ntheirs = their_toys\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith(("toy_room", "their_toys"))]:
        del sys.modules[name]


def faults(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as error:
        Toys.model_validate(values)
    return {".".join(map(str, fault["loc"])): fault["type"] for fault in error.value.errors()}


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_a_block_is_checked_by_the_class_of_its_member(name: str) -> None:
    values = {"kind": name, "steps": 2, name: {"width": 3, "depth": 1}}
    section = Toys.model_validate(values)
    assert section.model_dump() == values
    kind = block_class(Toys.ROOM, name, "Parameters")
    assert kind is not None and section.block(kind).model_dump() == {"width": 3, "depth": 1}
    assert copy.deepcopy(section) == section == Toys.model_validate(section)


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_every_fault_is_named_by_its_key(name: str) -> None:
    found = faults({"kind": name, "steps": 0, name: {"width": "3", "high": 1}, "nobody": {}})
    assert found == {
        "steps": "greater_than_equal",
        f"{name}.width": "int_type",
        f"{name}.depth": "missing",
        f"{name}.high": "extra_forbidden",
        "nobody": "extra_forbidden",
    }
    assert faults({"kind": name, "steps": 1}) == {name: "missing"}
    assert faults({"kind": name, "steps": 1, name: None}) == {name: "unfit"}


def test_blocks_of_members_that_are_not_selected_stay_and_are_checked() -> None:
    values = {"kind": "ours", "steps": 1, "ours": {"width": 3, "depth": 1}, "theirs": None}
    assert Toys.model_validate(values).model_dump() == values
    assert faults({**values, "theirs": {"width": 3}}) == {"theirs.depth": "missing"}


@pytest.mark.parametrize("name", ["nobody", "helper"])
def test_what_is_no_member_cannot_be_selected(name: str) -> None:
    assert faults({"kind": name, "steps": 1}) == {"kind": "unfit"}


def test_parameters_of_another_class_are_never_handed_out() -> None:
    section = Toys.model_validate({"kind": "ours", "steps": 1, "ours": {"width": 3, "depth": 1}})

    class Other(Section):
        pass

    with pytest.raises(TypeError, match="the block ours is Parameters"):
        section.block(Other)
