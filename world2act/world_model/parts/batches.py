"""Batches: the items that pass through a network together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Key = TypeVar("_Key", int, str, tuple[str, int, int])


def batches(keys: Sequence[_Key], size: int) -> list[list[int]]:
    """The indices of `keys` in batches of equal keys: lowest keys first, in their order within a key.

    Args:
        size: of a batch; the last one of a key may be smaller.
    """
    equal: dict[_Key, list[int]] = {}
    for index, key in enumerate(keys):
        equal.setdefault(key, []).append(index)
    return [rows[start : start + size] for _, rows in sorted(equal.items()) for start in range(0, len(rows), size)]
