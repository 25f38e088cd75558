"""Rigs and environments of Meta-World in this process, for tests that compare with them."""

from __future__ import annotations

from collections.abc import Sequence

from world2act.collection.expert import demonstrate
from world2act.collection.jobs import expert_settings, to_episode
from world2act.core.params import Demos
from world2act.data.episodes import Episode
from world2act.sims.base import Environment
from world2act.sims.metaworld.environment import MetaWorld, make_environment
from world2act.sims.rig import CameraMount, Rig

CAMERA = CameraMount("corner2", position_m=(0.75, 0.075, 0.7), fovy_deg=45.0)


def metaworld_rig(image_size: int = 64, settle_steps: int = 5, cameras: Sequence[CameraMount] = (CAMERA,)) -> Rig:
    return Rig("metaworld", tuple(cameras), image_size, settle_steps)


def make(task: str, settle_steps: int = 5) -> MetaWorld:
    return make_environment(task, metaworld_rig(settle_steps=settle_steps))


def record(environment: Environment, seed: int, demos: Demos) -> Episode | None:
    """The expert's episode from a scene, as the pipeline records it; None where it fails."""
    demonstration = demonstrate(environment, seed, expert_settings(demos))
    return demonstration and to_episode(environment.task, seed, demonstration, video_only=False)
