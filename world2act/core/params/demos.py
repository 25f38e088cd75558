"""The section `demos` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from world2act.core.params.section import Count, Positive, Section, Share


class Camera(Section):
    """position_m, fovy_deg: where the simulator's own camera is moved to; null leaves it as it is. protocol: the
    published evaluation protocol that the pictures follow, or null.
    """

    name: str
    position_m: tuple[float, float, float] | None = Field(strict=False)
    fovy_deg: Positive | None
    protocol: str | None


def _together(cameras: tuple[Camera, ...]) -> tuple[Camera, ...]:
    for what, values, right in (
        ("names", [camera.name for camera in cameras], len(cameras)),
        ("protocols", [camera.protocol for camera in cameras], 1),
    ):
        if len(set(values)) != right:
            raise PydanticCustomError("unfit", "different names and one protocol", {"found": f"{what} {values}"})
    return cameras


class Demos(Section):
    """cameras: all of them are rendered and recorded; the base policy sees each, and the world model all of them tiled
    into one frame. The first is the main one: what the residual, the gates and people look at. recorded: datasets in
    data/recorded that stand in for the experts. ingested: whether the episodes of data/ingested join the training
    parts.
    """

    simulator: str
    tasks: list[str] = Field(min_length=1)
    cameras: Annotated[tuple[Camera, ...], Field(strict=False, min_length=1, max_length=4), AfterValidator(_together)]
    image_size: Count
    labelled_per_task: Count
    video_only_per_task: Count
    post_training_per_task: Count
    test_per_task: Count
    heldout_share: Share
    action_noise: Annotated[float, Field(ge=0)]
    noise_steps: Count
    settle_steps: Annotated[int, Field(ge=0)]
    max_steps: Count
    recorded: list[str]
    ingested: bool
