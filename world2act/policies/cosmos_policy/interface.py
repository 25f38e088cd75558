"""What a Cosmos Policy reads and writes of a robot, one row a kind of weights: cameras, proprioception, actions.

"dataset" is the robot of the demonstrations as it is. "libero" and "robocasa" are the robots of NVIDIA's
Cosmos-Policy-{LIBERO,RoboCasa}-Predict2-2B as our simulators give them: names and signs are mapped here, once.

Source: cosmos-policy, `run_libero_eval.py` and `run_robocasa_eval.py` (`prepare_observation`; [0, 0, 0, 0, -1] behind
seven actions) and `cosmos_utils.py` (`prepare_images_for_model`, with `trained_with_image_aug`). What is the
simulator's and not the policy's: the 256 pixels it renders, settling steps, the horizon, chunks executed whole.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from world2act.core.errors import BadInput
from world2act.policies.cosmos_policy.layout import Layout, layout_of
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.robot import RobotDescription
from world2act.sims.simulator import load_simulator

SIDE, JPEG_QUALITY, CROP_AREA = 224, 95, 0.9


@dataclass(frozen=True)
class Interface:
    """The empty one leaves everything as it is.

    The network's proprioception is gripper 2, position 3, quaternion 4 (x, y, z, w).

    Attributes:
        simulator: the module of world2act/sims whose robot it is, by names and convention of pictures.
        cameras: the layout's name of a picture → the robot's camera.
        mirrored: whether the weights saw our pictures mirrored left to right.
        chunk_length: of the released weights.
        gripper, position, rotation: names of the robot's proprioception; a rotation of three numbers is axis times
            angle, of four a quaternion.
        base: position and quaternion of the frame in which position and rotation are given, where that is not the
            world.
        actions: names of the robot's actions that the network makes, in its order.
        rest: the value of the robot's other actions, by name.
    """

    simulator: str = ""
    cameras: Mapping[str, str] = field(default_factory=dict)
    mirrored: bool = False
    chunk_length: int | None = None
    gripper: tuple[str, ...] = ()
    position: tuple[str, ...] = ()
    rotation: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    rest: Mapping[str, float] = field(default_factory=dict)

    def robot(self, image_size: int) -> RobotDescription:
        """The robot of the released weights, seen at `image_size` pixels."""
        simulator = load_simulator(self.simulator)
        robot, cameras = simulator.embodiment, tuple(self.cameras.values())
        names = tuple(robot.proprio_names), tuple(robot.action_names)
        return RobotDescription(robot.name, cameras, image_size, simulator.image_convention, *names, robot.control_hz)

    def fit(self, robot: RobotDescription, key: str) -> tuple[Layout, tuple[str, ...]]:
        """The layout of the latent frames, and which of the robot's cameras each of its pictures shows.

        Raises:
            BadInput: the robot is another one, or lacks a camera; `key` names the parameter that chose the interface.
        """
        if not self.simulator:
            return layout_of(robot.cameras), robot.cameras
        wanted = self.robot(robot.image_size)
        fields = ("proprio", "actions", "image_convention")
        pairs = {name: (getattr(robot, name), getattr(wanted, name)) for name in fields}
        pairs["cameras"] = (robot.cameras, wanted.cameras)
        wrong = [name for name, (found, expected) in pairs.items() if name != "cameras" and found != expected]
        wrong += ["cameras"] * (not set(wanted.cameras) <= set(robot.cameras))
        if wrong:
            found, expected = ({name: pairs[name][side] for name in wrong} for side in (0, 1))
            remedy = f"take demonstrations of the simulator {self.simulator} with these cameras, or interface: dataset"
            raise BadInput("params.yaml", key, found, expected, remedy)
        return layout_of(tuple(self.cameras)), wanted.cameras

    def widths(self, proprio_dim: int, action_dim: int) -> dict[str, int]:
        """Feature → how many numbers of it the network sees, of a robot with that many."""
        return {PROPRIO: 9, ACTION: len(self.actions)} if self.simulator else {PROPRIO: proprio_dim, ACTION: action_dim}

    def picture_side(self, image_size: int) -> int:
        """Pixels a side that the network sees, where the robot's pictures have `image_size`."""
        return SIDE if self.simulator else image_size

    def pictures(self, images: np.ndarray) -> np.ndarray:
        """The robot's pictures, uint8 (..., S, S, 3) → the network's: as JPEG leaves them, resized to 224, and of that
        the middle 90 % of the area, at 224 again."""
        if not self.simulator:
            return images
        if self.mirrored:
            images = images[..., ::-1, :]
        flat = np.stack([_compressed_and_resized(image) for image in images.reshape(-1, *images.shape[-3:])])
        inner = int(SIDE * CROP_AREA**0.5)
        first = round((SIDE - inner) / 2)
        cropped = torch.from_numpy(flat)[:, first : first + inner, first : first + inner].permute(0, 3, 1, 2).float()
        resized = F.interpolate(cropped, (SIDE, SIDE), mode="bilinear", antialias=True).round().clamp(0, 255)
        return resized.to(torch.uint8).permute(0, 2, 3, 1).numpy().reshape(*images.shape[:-3], SIDE, SIDE, 3)

    def proprio(self, values: np.ndarray) -> np.ndarray:
        """The robot's proprioception (..., P) → the network's, float32."""
        if not self.simulator:
            return values
        values = np.asarray(values, np.float64)
        gripper, position, rotation = (
            values[..., [self._robot.proprio.index(name) for name in names]]
            for names in (self.gripper, self.position, self.rotation)
        )
        quaternion = of_rotation_vector(rotation) if len(self.rotation) == 3 else rotation
        if self.base:
            # robosuite gives w >= 0 here, and MuJoCo's sign, which the weights saw, in the world; x > 0 is the sign of
            # a gripper that looks down, as it does at home
            quaternion = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
            base = values[..., [self._robot.proprio.index(name) for name in self.base]]
            position = base[..., :3] + rotate(base[..., 3:], position)
            quaternion = multiply(base[..., 3:], quaternion)
        return np.concatenate([gripper, position, quaternion], -1).astype(np.float32)

    def network_actions(self, actions: np.ndarray) -> np.ndarray:
        """Of the robot's actions (..., A) those that the network makes."""
        if not self.simulator:
            return actions
        return actions[..., [self._robot.actions.index(name) for name in self.actions]]

    def robot_actions(self, actions: np.ndarray) -> np.ndarray:
        """The network's actions → the robot's (..., A), with `rest` for those that it does not make."""
        if not self.simulator:
            return actions
        columns = [
            np.full(actions.shape[:-1], self.rest[name], actions.dtype)
            if name in self.rest
            else actions[..., self.actions.index(name)]
            for name in self._robot.actions
        ]
        return np.stack(columns, -1)

    @cached_property
    def _robot(self) -> RobotDescription:
        return self.robot(SIDE)


_POSITION, _GRIPPER = ("ee_x_m", "ee_y_m", "ee_z_m"), ("gripper_left_m", "gripper_right_m")
_ARM = ("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper")
INTERFACES = {
    "dataset": Interface(),
    "libero": Interface(
        simulator="libero",
        cameras={"wrist": "eye_in_hand", "primary": "agentview"},
        mirrored=True,  # ours are turned by 180 degrees from robosuite's, theirs are turned upside down
        chunk_length=16,
        gripper=_GRIPPER,
        position=_POSITION,
        rotation=("ee_rx_rad", "ee_ry_rad", "ee_rz_rad"),
        actions=_ARM,
    ),
    "robocasa": Interface(
        simulator="robocasa",
        cameras={
            "wrist": "robot0_eye_in_hand",
            "left": "robot0_agentview_left",
            "right": "robot0_agentview_right",
        },
        chunk_length=32,
        gripper=_GRIPPER,
        position=_POSITION,
        rotation=("ee_qx", "ee_qy", "ee_qz", "ee_qw"),
        base=("base_x_m", "base_y_m", "base_z_m", "base_qx", "base_qy", "base_qz", "base_qw"),
        actions=_ARM,
        rest={"base_x": 0.0, "base_y": 0.0, "base_yaw": 0.0, "base_torso": 0.0, "control_mode": -1.0},
    ),
}


def of_rotation_vector(values: np.ndarray) -> np.ndarray:
    """Axis times angle (..., 3), an angle in [0, 2 pi] → quaternion (..., 4), x, y, z, w. robosuite's `quat2axisangle`
    turns a quaternion and its negative into other angles, so that this gives back the one it had, sign included."""
    angle = np.linalg.norm(values, axis=-1, keepdims=True)
    axis = values / np.where(angle > 0, angle, 1)
    return np.concatenate([axis * np.sin(angle / 2), np.cos(angle / 2)], -1)


def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The product of quaternions (..., 4), x, y, z, w: first `right`, then `left`."""
    (a, s), (b, t) = ((pose[..., :3], pose[..., 3:]) for pose in (left, right))
    return np.concatenate([s * b + t * a + np.cross(a, b), s * t - (a * b).sum(-1, keepdims=True)], -1)


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """`vector` (..., 3) turned by a unit `quaternion` (..., 4)."""
    axis, w = quaternion[..., :3], quaternion[..., 3:]
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector)


def _compressed_and_resized(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.resize((SIDE, SIDE)) if decoded.size != (SIDE, SIDE) else decoded)
