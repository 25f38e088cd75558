"""config.json of a world2act policy folder → the configuration that LeRobot wants of a policy.

The file is the policy's own (docs/artifacts.md): `type` sends LeRobot here, `protocol` says what the robot shows and
takes, and the rest, the family and its dimensions, is nobody's business but `load_policy`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import draccus
from draccus.parsers.decoding import decode_dataclass
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from world2act.errors import World2ActError
from world2act.policies.protocol import RobotProtocol


@PreTrainedConfig.register_subclass("world2act")
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

    def show(self, protocol: RobotProtocol) -> None:
        """State the features of the robot that the policy was trained for."""
        side = protocol.image_size
        self.input_features = {
            f"{OBS_IMAGES}.{camera}": PolicyFeature(FeatureType.VISUAL, (3, side, side)) for camera in protocol.cameras
        }
        self.input_features[OBS_STATE] = PolicyFeature(FeatureType.STATE, (len(protocol.proprio),))
        self.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (len(protocol.actions),))}
        self.action_feature_names = list(protocol.actions)

    def validate_features(self) -> None:
        """Nothing here: the policy checks what LeRobot found against what it gives when it is opened."""

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


def _decode(values: dict[str, Any], path: Sequence[str] = ()) -> World2ActConfig:
    """From config.json and the command line, which draccus has merged."""
    own = {field.name for field in fields(World2ActConfig)}
    config = decode_dataclass(World2ActConfig, {key: value for key, value in values.items() if key in own}, path)
    if "protocol" in values:
        config.show(RobotProtocol.of_config(values, "config.json"))
    return config


draccus.decode.register(World2ActConfig, _decode)
