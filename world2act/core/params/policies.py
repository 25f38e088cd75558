"""The section `base_policy` of params.yaml. Each policy family brings the class of its own block."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params.base import Training
from world2act.core.params.blocks import Blocks
from world2act.core.params.section import Count


def _fill_a_latent(chunk_length: int) -> int:
    """Post-training aligns each latent with the actions that caused it: a chunk must hold at least those."""
    if chunk_length < FRAMES_PER_LATENT:
        expected = f"at least {FRAMES_PER_LATENT} actions per chunk, those of one latent"
        raise PydanticCustomError("unfit", expected, {"found": str(chunk_length)})
    return chunk_length


class BasePolicy(Blocks):
    """`base_policy`: {family: gr00t, gr00t: {...}, ...}.

    Attributes:
        family: a module of world2act/policies, or one that an installed package declares as an entry point of the
            group `world2act.policies`. The block of that name holds its parameters, of the class `Parameters` of the
            family's module `params`, or of the family itself where it is one module.
        chunk_length: actions per chunk.
        check_episodes_per_task: episodes of the check against random actions.
    """

    ROOM: ClassVar[str] = "world2act.policies"
    CLASS: ClassVar[str] = "Parameters"
    KEY: ClassVar[str] = "family"

    family: str = Field(pattern=r"^[a-z0-9_]+$")
    chunk_length: Annotated[Count, AfterValidator(_fill_a_latent)]
    check_episodes_per_task: Count
    training: Training
