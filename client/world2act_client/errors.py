"""What goes wrong with a release. Each error says where, what was found, what was expected and what to do."""

from __future__ import annotations


class ReleaseError(Exception):
    """Base of every error that is reported as one message, without a traceback.

    Args:
        where: the object, file or setting concerned. Never a credential.
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
    """There is no such bucket, name, channel, version or object."""


class Denied(ReleaseError):
    """The store knows the caller and refuses the action, or does not know the caller."""


class Tampered(ReleaseError):
    """Bytes that are not the ones that were signed. They are never handed on."""


class Unreachable(ReleaseError):
    """The store does not answer, or not in time."""


class Conflict(ReleaseError):
    """Somebody else wrote there first, or what lies there is not ours to replace."""
