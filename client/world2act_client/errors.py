"""The errors of releases. Each says where, what was found, what was expected and what to do."""

from __future__ import annotations


class ReleaseError(Exception):
    """Base of every error that is reported as one message, without a traceback.

    Args:
        where: the object, file or setting concerned. It never contains a credential.
        found: what was there.
        expected: what should have been there.
        remedy: what the user can do about it.
    """

    def __init__(self, where: object, found: object, expected: object, remedy: str) -> None:
        self.where, self.found, self.expected, self.remedy = str(where), found, expected, remedy
        super().__init__(f"{where}\n  found:    {found}\n  expected: {expected}\n  remedy:   {remedy}")

    def __reduce__(self) -> tuple[type[ReleaseError], tuple[object, ...]]:
        """Between processes, the fields travel and not the message."""
        return type(self), (self.where, self.found, self.expected, self.remedy)


class NotFound(ReleaseError):
    """The bucket, name, channel, version or object does not exist."""


class Denied(ReleaseError):
    """The store does not know the caller, or refuses the action."""


class Tampered(ReleaseError):
    """Bytes differ from those that were signed. They are never passed on."""


class Unreachable(ReleaseError):
    """The store does not answer in time."""


class Conflict(ReleaseError):
    """Somebody else wrote first, or what exists must not be replaced."""
