"""A scripted expert for LIBERO's pick-and-position tasks: from the simulator's state to the next action.

It sees everything (privileged) and acts closed loop: in every state it knows how to go on, even after noise has pushed
the arm away or the object has slipped. Bowls are pinched at the rim; everything else is grasped from above, across
its narrow side.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from world2act.core.errors import BadInput

_PREDICATES = ("on", "in")
# The errors at which an action reaches 1, which moves 0.05 m or 0.5 rad, but less near the limits of the arm.
_METRES, _RADIANS = 0.02, 0.25
_OPEN, _CLOSE = -1.0, 1.0
_HOVER_M = 0.12
_NEAR_M, _AT_M, _TURNED = 0.02, 0.008, 0.08
_CLOSING_STEPS, _OPENING_STEPS, _PATIENCE, _STILL_M = 12, 8, 5, 4e-4
_LOST_M, _MOVED_M = 0.05, 0.01
_CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)))
_ANGLES = np.linspace(-np.pi / 2, np.pi / 2, 37)[:-1]


@dataclass
class _Grasp:
    """Where to grasp an object whose middle is at `center`, and along which axis the fingers close."""

    center: np.ndarray
    point: np.ndarray
    yaw: float


class Expert:
    """The expert of one episode.

    Args:
        model, data: the simulation, read only.
        site: the gripper's site.
        bodies: object → body.
        goals: one [predicate, object, target] per goal, from the task's file.

    Attributes:
        time: control steps so far, kept by the environment: the expert advances once per step, however often asked.
        phase: of the last action: 2 k while it picks the object of goal k, 2 k + 1 while it places it.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        site: int,
        bodies: Mapping[str, int],
        goals: Sequence[Sequence[str]],
    ) -> None:
        self._model, self._data, self._site, self._bodies = model, data, site, bodies
        self._goals = goals
        self._fingers = [model.joint(name).qposadr[0] for name in ("gripper0_finger_joint1", "gripper0_finger_joint2")]
        self._shapes: dict[str, np.ndarray] = {}
        self._goal, self._stage, self._since = 0, "reach", 0
        self._grasp: _Grasp | None = None
        self._held = np.zeros(3)  # from the object's middle to the gripper
        self._opening, self._position, self._stuck = 0.0, np.zeros(3), 0
        self.time, self._asked, self._answer = 0, -1, np.zeros(7, np.float32)
        self.phase = 0

    def action(self) -> np.ndarray:
        """The action for the current state, float32 (7,), clipped to [-1, 1].

        Raises:
            BadInput: the task is not one of picking and placing.
        """
        if self._asked != self.time:
            self._asked = self.time
            self._answer = self._decide()
            self._opening = self._finger_opening()
        return self._answer

    def _decide(self) -> np.ndarray:
        predicate, name, *rest = self._goals[self._goal]
        if predicate not in _PREDICATES or not rest or not self._is_free(name):
            raise BadInput(
                "params.yaml",
                "demos.tasks",
                f"a task with the goal {[predicate, name, *rest]}",
                "goals that put an object on or into something",
                "use demonstrations from files for this task",
            )
        self._since += 1
        position = self._data.site_xpos[self._site].copy()
        self._stuck = self._stuck + 1 if np.linalg.norm(position - self._position) < _STILL_M else 0
        self._position = position
        return getattr(self, f"_{self._stage}")(name, rest[0])

    def _enter(self, stage: str) -> None:
        self._stage, self._since = stage, 0

    def _reach(self, name: str, target: str) -> np.ndarray:
        """Go above the grasp, then down to it, fingers open."""
        self.phase = 2 * self._goal
        points = self._points(name)
        if self._grasp is None or np.linalg.norm(self._grasp.center - _middle(points)) > _MOVED_M:
            self._grasp = _plan(points, rim="bowl" in name)
        grasp, position = self._grasp, self._data.site_xpos[self._site]
        away = np.linalg.norm(position[:2] - grasp.point[:2])
        if away < _NEAR_M and abs(self._turn(grasp.yaw)) < 2 * _TURNED:
            arrived = np.linalg.norm(position - grasp.point) < _AT_M and abs(self._turn(grasp.yaw)) < _TURNED
            if arrived or self._stuck > _PATIENCE:
                self._enter("close")
                return self._close(name, target)
            return self._toward(grasp.point, _OPEN)
        above = grasp.point + np.array([0, 0, _HOVER_M])
        if away > _HOVER_M / 2 and position[2] < above[2] - _HOVER_M / 2:
            above[:2] = position[:2]
        return self._toward(above, _OPEN)

    def _close(self, name: str, target: str) -> np.ndarray:
        """Close the fingers until they are still."""
        assert self._grasp is not None
        still = abs(self._finger_opening() - self._opening) < _STILL_M
        if self._since >= _CLOSING_STEPS or (still and self._since >= _CLOSING_STEPS // 2):
            self._held = self._data.site_xpos[self._site] - _middle(self._points(name))
            self._enter("carry")
            return self._carry(name, target)
        return self._toward(self._grasp.point, _CLOSE)

    def _carry(self, name: str, target: str) -> np.ndarray:
        """Lift, go over the target, and down until the object rests on it; start again where it was lost."""
        assert self._grasp is not None
        self.phase = 2 * self._goal + 1
        points, position = self._points(name), self._data.site_xpos[self._site]
        offset = position - _middle(points)
        if np.linalg.norm(offset - self._held) > _LOST_M:
            return self._restart(name, target)
        goal, drop, clear = self._target(target)
        hangs = position[2] - points[:, 2].min()
        over = goal + offset[:2]
        if np.linalg.norm(position[:2] - over) > _NEAR_M:
            lift = max(drop + clear + hangs, self._grasp.point[2] + clear)
            ready = position[2] > lift - _NEAR_M
            return self._toward(np.array([*(over if ready else position[:2]), lift]), _CLOSE)
        down = np.array([*over, drop + hangs])
        if position[2] < down[2] + _AT_M or self._stuck > _PATIENCE:
            self._enter("release")
            return self._release(name, target)
        return self._toward(down, _CLOSE)

    def _release(self, name: str, target: str) -> np.ndarray:
        """Open the fingers, then go up."""
        position = self._data.site_xpos[self._site]
        if self._since < _OPENING_STEPS:
            return self._toward(position, _OPEN)
        if self._since < 3 * _OPENING_STEPS:
            return self._toward(position + np.array([0, 0, _HOVER_M / 2]), _OPEN)
        if self._goal + 1 < len(self._goals):
            self._goal += 1
            return self._restart(*self._goals[self._goal][1:])
        goal, _, _ = self._target(target)
        if np.linalg.norm(_middle(self._points(name))[:2] - goal) > _LOST_M:
            return self._restart(name, target)
        return self._toward(position, _OPEN)

    def _restart(self, name: str, target: str) -> np.ndarray:
        self._grasp = None
        self._enter("reach")
        return self._reach(name, target)

    def _toward(self, point: np.ndarray, gripper: float) -> np.ndarray:
        """The action that moves the gripper to `point`, upright and at the yaw of the grasp."""
        rotation = self._data.site_xmat[self._site].reshape(3, 3)
        upright = np.cross(rotation[:, 2], [0.0, 0.0, -1.0])
        upright[2] = self._turn(self._grasp.yaw) if self._grasp else 0.0
        move = np.clip((point - self._data.site_xpos[self._site]) / _METRES, -1, 1)
        return np.array([*move, *np.clip(upright / _RADIANS, -0.5, 0.5), gripper], np.float32)

    def _turn(self, yaw: float) -> float:
        """From the fingers' axis to `yaw`, radians; half a turn makes no difference."""
        axis = self._data.site_xmat[self._site].reshape(3, 3)[:, 0]
        return (yaw - np.arctan2(axis[1], axis[0]) + np.pi / 2) % np.pi - np.pi / 2

    def _target(self, target: str) -> tuple[np.ndarray, float, float]:
        """Where an object goes: x and y, the height at which its lowest point is released, and the clearance above."""
        if target in self._bodies:
            height = self._data.xpos[self._bodies[target]][2] + 0.032
            return _middle(self._points(target))[:2], height, 0.15
        site = self._data.site(target).xpos
        basket = "basket" in target
        return site[:2], site[2] + (0.10 if basket else 0.012), 0.15

    def _finger_opening(self) -> float:
        left, right = self._data.qpos[self._fingers]
        return float(left - right)

    def _is_free(self, name: str) -> bool:
        if name not in self._bodies:
            return False
        joint = self._model.body_jntadr[self._bodies[name]]
        return joint >= 0 and self._model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE

    def _points(self, name: str) -> np.ndarray:
        """Corners of an object's collision shapes in the world, metres (N, 3)."""
        body = self._bodies[name]
        rotation, position = self._data.xmat[body].reshape(3, 3), self._data.xpos[body]
        if name not in self._shapes:
            self._shapes[name] = (_collision_points(self._model, self._data, body) - position) @ rotation
        return self._shapes[name] @ rotation.T + position


def _plan(points: np.ndarray, rim: bool) -> _Grasp:
    """A grasp from above of the object with these `points`."""
    center, low, top = _middle(points), points[:, 2].min(), points[:, 2].max()
    if rim:
        side = -1 if center[1] > 0 else 1
        radius = np.ptp(points[:, :2], axis=0).mean() / 2 - 0.006
        return _Grasp(center, np.array([center[0], center[1] + side * radius, top - 0.014]), np.pi / 2)
    flat = points[:, :2]
    yaw = min(_ANGLES, key=lambda angle: np.ptp(flat @ _axis(angle)) + 0.003 * abs(abs(angle) - np.pi / 2))
    across, along = _axis(yaw), _axis(yaw + np.pi / 2)
    spot = _middle(flat @ across) * across + _middle(flat @ along) * along
    height = max(low + 0.012, top - 0.03) if top - low > 0.06 else (low + top) / 2
    return _Grasp(center, np.array([*spot, height]), yaw)


def _collision_points(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> np.ndarray:
    """Vertices of meshes and corners of boxes around other shapes, of a body and its children, metres (N, 3)."""
    found = []
    for geom in range(model.ngeom):
        if not _is_below(model, model.geom_bodyid[geom], body):
            continue
        if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
            continue
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first = model.mesh_vertadr[mesh]
            local = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        else:
            local = model.geom_aabb[geom, :3] + model.geom_aabb[geom, 3:] * _CORNERS
        found.append(local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])
    return np.concatenate(found)


def _is_below(model: mujoco.MjModel, body: int, ancestor: int) -> bool:
    while body and body != ancestor:
        body = model.body_parentid[body]
    return body == ancestor


def _axis(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _middle(values: np.ndarray) -> np.ndarray:
    return (values.min(0) + values.max(0)) / 2
