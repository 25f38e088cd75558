"""Sections with one block per member of a room: each block is checked by the model that the member itself provides.

    post_train: {method: residual, residual: {...}, training: {...}}

`residual` is not known here. Its block is validated by the class that `world2act.post_training.residual` provides, and
the block of a method of another package by that package's class, under the same rules and with the same messages.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, ConfigDict, SerializeAsAny, create_model, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.members import find_member, load_member
from world2act.core.params.section import Section

Block = TypeVar("Block", bound=Section)


def block_class(room: str, name: str, attribute: str) -> type[Section] | None:
    """The class of a member's block; None where the room has no such member.

    Raises:
        BadInput: the member has no such class.
    """
    if find_member(name, room) is None:
        return None
    found: type[Section] = getattr(
        load_member(name, "params", attribute, [room], "params.yaml", f"the block {name}"), attribute
    )
    return found


class Blocks(Section):
    """A section whose further keys are names of members, each with the member's block.

    Attributes:
        ROOM: the package of the members, which is also the group of their entry points.
        CLASS: the attribute of a member's module `params` that is the class of its block.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SerializeAsAny[Section]]
    ROOM: ClassVar[str]
    CLASS: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _check_blocks(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        blocks = {key: value for key, value in values.items() if key not in cls.model_fields}
        fields: dict[str, Any] = {name: block_class(cls.ROOM, name, cls.CLASS) or _Unknown for name in blocks}
        checked = create_model("Checked", __base__=Section, **fields).model_validate(blocks)
        return values | dict(checked)

    def block(self, name: str, kind: type[Block]) -> Block:
        """The block of a member, as an instance of the member's own class. Raises `KeyError` where it is missing."""
        found = (self.__pydantic_extra__ or {})[name]
        if not isinstance(found, kind):
            raise TypeError(f"the block {name} is {type(found).__name__}, not {kind.__name__}")
        return found

    def has_block(self, name: str) -> bool:
        return name in (self.__pydantic_extra__ or {})


def _refuse(value: Any) -> Any:
    raise PydanticCustomError("extra_forbidden", "a known key, or the name of an installed member", {})


_Unknown = Annotated[Section, BeforeValidator(_refuse)]
