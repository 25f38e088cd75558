"""The errors a user sees. Each says where, what was found, what was expected and what to do."""

from __future__ import annotations

from pathlib import Path


class World2ActError(Exception):
    """Base of every error that is reported as one message, without a traceback."""


class BadInput(World2ActError):
    """An input that cannot be used.

    Args:
        where: the file, directory or parameter file concerned.
        key: the key, column, tensor or row inside it ("" when the whole of it is concerned).
        found: what was there.
        expected: what should have been there.
        remedy: what the user can do about it.
    """

    def __init__(self, where: str | Path, key: str, found: object, expected: object, remedy: str) -> None:
        self.where, self.key, self.found, self.expected, self.remedy = str(where), key, found, expected, remedy
        place = f"{where}: {key}" if key else f"{where}"
        super().__init__(f"{place}\n  found:    {found}\n  expected: {expected}\n  remedy:   {remedy}")

    def __reduce__(self) -> tuple[type[BadInput], tuple[object, ...]]:
        """Between processes, the fields travel and not the message."""
        return type(self), (self.where, self.key, self.found, self.expected, self.remedy)


class GateFailed(World2ActError):
    """A gate is red: the artifact is not fit for what reads it."""


class InfrastructureError(World2ActError):
    """A simulator, process or disk failed. Never counted as a failure of a policy."""
