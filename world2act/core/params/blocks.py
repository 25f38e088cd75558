"""Sections with one block per member of a room: each block is checked by the model that the member itself provides.

    post_train: {method: residual, residual: {...}, training: {...}}

`residual` is not known here. Its block is validated by the class that `world2act.post_training.residual` provides, and
the block of a method of another package by that package's class, under the same rules and with the same messages. A
member's module is only imported when a section that names it is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ConfigDict, ModelWrapValidatorHandler, SerializeAsAny, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from world2act.core.members import find_member, part_name
from world2act.core.params.section import Section

Block = TypeVar("Block", bound=Section)


def block_class(room: str, name: str, attribute: str) -> type[Section] | None:
    """The class of a member's block; None where the room has no such member, or the member has no such class."""
    member = find_member(name, room)
    found = getattr(import_module(part_name(member, "params")), attribute, None) if member else None
    return found if isinstance(found, type) and issubclass(found, Section) else None


class Blocks(Section):
    """A section whose further keys are names of members, each with the member's block.

    Blocks of members that are not selected are checked as well; they may also be null.

    Attributes:
        ROOM: the package of the members, which is also the group of their entry points.
        CLASS: the attribute of a member's module `params` that is the class of its block.
        KEY: the field that selects a member, whose block is then required; None where the section selects none.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SerializeAsAny[Section] | None]
    ROOM: ClassVar[str]
    CLASS: ClassVar[str]
    KEY: ClassVar[str | None] = None

    def block(self, kind: type[Block], name: str | None = None) -> Block:
        """The block of a member, by default of the selected one, which asks for it by its own class.

        Raises:
            KeyError: the member has no block here.
            TypeError: the block is of another class.
        """
        key = self.selected if name is None else name
        found = (self.__pydantic_extra__ or {})[key]
        if not isinstance(found, kind):
            raise TypeError(f"the block {key} is {type(found).__name__}, not {kind.__module__}.{kind.__name__}")
        return found

    def has_block(self, name: str) -> bool:
        return (self.__pydantic_extra__ or {}).get(name) is not None

    def settings(self) -> dict[str, Any]:
        """The values of the section for JSON or YAML, without the blocks of members that are not selected."""
        return self.model_dump(mode="json", include={*type(self).model_fields, self.selected})

    @property
    def selected(self) -> str:
        """The name of the member that the section selects."""
        if self.KEY is None:
            raise TypeError(f"{type(self).__name__} selects no member")
        return str(getattr(self, self.KEY))

    @model_validator(mode="wrap")
    @classmethod
    def _check_blocks(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, Mapping):
            return handler(values)
        blocks: dict[str, Section | None] = {}
        faults = cls._check_selection(values)
        for name in (str(key) for key in values if key not in cls.model_fields):
            kind, value = block_class(cls.ROOM, name, cls.CLASS), values[name]
            if kind is None:
                faults.append(_fault("extra_forbidden", "Extra inputs are not permitted", name, value))
            elif value is None:
                blocks[name] = None
            else:
                try:
                    blocks[name] = kind.model_validate(value)
                except ValidationError as error:
                    faults += _faults_of(error, name)
        try:
            section = handler({key: value for key, value in values.items() if key in cls.model_fields} | blocks)
        except ValidationError as error:
            faults += _faults_of(error)
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return section

    @classmethod
    def _check_selection(cls, values: Mapping[Any, Any]) -> list[InitErrorDetails]:
        name = values.get(cls.KEY)
        if cls.KEY is None or not isinstance(name, str):  # the type of the field says what is wrong
            return []
        if block_class(cls.ROOM, name, cls.CLASS) is None:
            expected = f"a module of {cls.ROOM.replace('.', '/')} that has {cls.CLASS}, or one of an installed package"
            return [_fault("unfit", expected, cls.KEY, name, found=name)]
        if name not in values:
            return [_fault("missing", "Field required", name, dict(values))]
        if values[name] is None:
            return [_fault("unfit", f"the block of the {cls.KEY}", name, None, found=f"{name}: null")]
        return []


def _fault(kind: str, message: str, key: str, value: object, **context: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError(kind, message, context), loc=(key,), input=value)


def _faults_of(error: ValidationError, *prefix: str) -> list[InitErrorDetails]:
    """The faults of an error, to be raised again together with others."""
    return [
        InitErrorDetails(
            type=PydanticCustomError(fault["type"], fault["msg"], fault.get("ctx")),
            loc=prefix + fault["loc"],
            input=fault["input"],
        )
        for fault in error.errors(include_url=False)
    ]
