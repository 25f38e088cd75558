"""The section `evaluate` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.params.section import Count, Section, Share

RANDOM = "random"
"""The name of the policy that acts at random, which every evaluation includes."""


def _not_random(name: str) -> str:
    if name == RANDOM:
        raise PydanticCustomError("unfit", f"another name: {RANDOM} is the policy that acts at random", {"found": name})
    return name


PolicyName = Annotated[str, Field(pattern="^[a-z0-9_]+$"), AfterValidator(_not_random)]


class Evaluate(Section):
    """policies: the set that is evaluated, by name; each is the folder of a saved policy. incumbent: the one that the
    others are compared with, and must not be worse than. environments: how many run at a time.
    """

    policies: dict[PolicyName, str]
    incumbent: str
    environments: Count
    max_steps: Count
    confidence: Share
    videos_per_task: Count
    video_size: Count

    @model_validator(mode="after")
    def _check_set(self) -> Evaluate:
        if self.incumbent not in self.policies:
            expected = f"an incumbent among the policies, {', '.join(self.policies)}"
            raise PydanticCustomError("unfit", expected, {"found": self.incumbent})
        if not self.candidates:
            raise PydanticCustomError("unfit", "a policy to compare with the incumbent", {"found": "none"})
        return self

    @property
    def candidates(self) -> list[str]:
        """The policies that are compared with the incumbent."""
        return [name for name in self.policies if name != self.incumbent]
