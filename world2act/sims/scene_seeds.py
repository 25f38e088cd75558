"""Scene seeds: each names a set of scenes and an index in it, so that no two sets share a scene.

A scene seed is the identity of a scene and can be read back: simulators with fixed test scenes (LIBERO) read which one
is meant. Random numbers are another matter: `world2act.core.seeds.derive` gives the seeds that they are drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass

SETS = ("labelled", "video_only", "post_training", "test")
SEEDS_PER_SET = 1_000_000


@dataclass(frozen=True)
class SceneSeed:
    """What a scene seed says: the pipeline's base seed, the set, and the index in the set."""

    base_seed: int
    set: str
    index: int


def scene_seed(base_seed: int, set_name: str, index: int) -> int:
    """The scene seed of an index in a set; two sets never share one.

    Raises:
        ValueError: `index` reaches into the next set's seeds.
    """
    if not 0 <= index < SEEDS_PER_SET:
        raise ValueError(f"scene index {index} of set {set_name} is not below {SEEDS_PER_SET}")
    return (base_seed * len(SETS) + SETS.index(set_name)) * SEEDS_PER_SET + index


def parse_scene_seed(seed: int) -> SceneSeed:
    """The inverse of `scene_seed`."""
    block, index = divmod(seed, SEEDS_PER_SET)
    base_seed, position = divmod(block, len(SETS))
    return SceneSeed(base_seed, SETS[position], index)
