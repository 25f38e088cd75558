"""`lerobot/config.json` in a policy's folder → the configuration that LeRobot wants of a policy.

What stands there is `world2act.policies.lerobot`'s to say; the policy's own configuration is in the folder around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from lerobot.configs import PreTrainedConfig

from world2act.core.errors import World2ActError
from world2act.policies.lerobot import TYPE


@PreTrainedConfig.register_subclass(TYPE)
@dataclass
class World2ActConfig(PreTrainedConfig):
    """What a user may set: `--policy.n_action_steps=4 --policy.seed=1`.

    Attributes:
        n_action_steps: actions of a chunk that are executed before the next is predicted; null: all of them.
        seed: of the sampling noise.
        action_feature_names: the policy's actions in their order, by which LeRobot finds a robot's own.
    """

    n_action_steps: int | None = None
    seed: int = 0
    action_feature_names: list[str] | None = None

    def validate_features(self) -> None:
        """Nothing here: the policy compares what LeRobot found with what it gives, when it is opened."""

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> NoReturn:
        refuse_training()

    def get_scheduler_preset(self) -> NoReturn:
        refuse_training()


def refuse_training() -> NoReturn:
    """Raises `World2ActError`, with what to do."""
    raise World2ActError(
        "lerobot-train\n  found:    a policy of type world2act\n  expected: a policy that LeRobot trains"
        "\n  remedy:   train it in its own pipeline, where its data is gated: `world2act import` takes LeRobot data "
        "sets, `dvc repro post_train` trains on them"
    )
