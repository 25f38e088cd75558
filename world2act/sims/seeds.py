"""Which scenes belong to which set: a scene seed is a set and an index in it, and no two sets share one.

A scene seed is a scene's identity and can be read back: base seed, set and index. Sets of one pipeline are disjoint by
it, and simulators with fixed test scenes (LIBERO) read which one is meant. Random numbers are another matter:
`world2act.core.seeds.derive` gives the seeds that they are drawn from.
"""

from __future__ import annotations

SETS = ("labelled", "video_only", "post_training", "test")
SEEDS_PER_SET = 1_000_000


def set_seed(base_seed: int, name: str, index: int) -> int:
    """The scene seed `index` of a set; two sets never share one.

    Raises:
        ValueError: `index` runs into the next set's seeds.
    """
    if not 0 <= index < SEEDS_PER_SET:
        raise ValueError(f"seed index {index} of set {name} is not below {SEEDS_PER_SET}")
    return (base_seed * len(SETS) + SETS.index(name)) * SEEDS_PER_SET + index


def read_seed(seed: int) -> tuple[int, str, int]:
    """The inverse of `set_seed`: base seed, set and index."""
    block, index = divmod(seed, SEEDS_PER_SET)
    base_seed, place = divmod(block, len(SETS))
    return base_seed, SETS[place], index
