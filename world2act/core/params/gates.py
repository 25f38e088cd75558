"""The section `gates` of params.yaml: thresholds, one section per artifact."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from world2act.core.params.blocks import Blocks
from world2act.core.params.post_training import GatePostTrain
from world2act.core.params.section import Positive, Section, Share


class GateDemos(Section):
    """Lower limits. contrast, change: in grey levels of 255. motion_explained, scene_r2: shares of variance."""

    contrast: Positive
    change: Positive
    motion_explained: Share
    scene_r2: float


class GateSkills(Section):
    """synchronised: the share of episodes of a task that were split rather than discarded, at least. boundary_f1: of
    the boundaries within 5 frames of the expert's, at least, on tasks with and without a grasp."""

    synchronised: Share
    boundary_f1_prehensile: Share
    boundary_f1_non_prehensile: Share


class GateTokenizer(Section):
    """Lower limits for held-out clips: of the median, of every one, and of the median gain over a still first frame."""

    psnr_db: Positive
    lowest_psnr_db: Positive
    over_still_db: float


class GateLatents(Section):
    """Per channel over the training clips: |mean| at most, and standard deviation in a range."""

    mean: Positive
    std: tuple[Positive, Positive] = Field(strict=False)


class GateWorldModel(Section):
    """Largest ratio of the model's error to a baseline's, least gain in correlation over shuffled first frames."""

    over_first_frame: Positive
    over_skill_mean: Positive
    correlation_gain: float


class GateRollouts(Section):
    """Per channel against the training latents: shift of the mean in standard deviations, and their ratio."""

    shift: Positive
    spread: tuple[Positive, Positive] = Field(strict=False)


class GateBasePolicy(Section):
    """Success of the base policy less that of the random one over the check episodes, at least; share of episodes
    that ended in an infrastructure error, at most."""

    success_gain: float
    error_share: Share


class GateBridge(Section):
    """times_chance: top-1 retrieval over all held-out clips, in multiples of chance, at least."""

    times_chance: Annotated[float, Field(ge=0)]


class GateEvaluate(Section):
    """error_share: of episodes that ended in an infrastructure error, at most."""

    error_share: Share


class Gates(Blocks):
    """Thresholds of the gates, one section per artifact. A gate of another package brings the class of its section."""

    ROOM: ClassVar[str] = "world2act.gates"
    CLASS: ClassVar[str] = "Limits"

    demos: GateDemos
    skills: GateSkills
    tokenizer: GateTokenizer
    latents: GateLatents
    world_model: GateWorldModel
    rollouts: GateRollouts
    base_policy: GateBasePolicy
    bridge: GateBridge
    post_train: GatePostTrain
    evaluate: GateEvaluate
