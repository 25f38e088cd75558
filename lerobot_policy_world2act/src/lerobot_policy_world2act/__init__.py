"""World2Act's policies in LeRobot, which imports this package because of its name: `type: world2act`."""

from lerobot_policy_world2act.configuration_world2act import World2ActConfig

__all__ = ["World2ActConfig"]
