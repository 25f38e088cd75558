"""Meta-World's environments, as they run in a worker: scripted experts, our own off-screen rendering.

Three traps of this simulator are closed here:

- After an environment has been freed, a newer one renders nothing, without an error. Nothing is freed before its
  process ends, and a frame without contrast raises.
- Right after Meta-World's reset the picture shows the previous episode's scene, and some state survives a reset.
  `reset` restores the model first and lets the scene settle.
- Stock cameras see too much and are upside down: the camera's pose is a parameter, frames are rotated by 180°.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("LP_NUM_THREADS", "1")  # software rendering of small frames is slower on more threads

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims.base import Observation, Task, check_contrast
from world2act.sims.checks import check_tasks
from world2act.sims.metaworld import EMBODIMENT, TASKS
from world2act.sims.rig import CameraMount, Rig

_PACKAGES = {"osmesa": "libosmesa6", "egl": "libegl1 libgl1"}


def _no_renderer(error: BaseException) -> InfrastructureError:
    backend = os.environ["MUJOCO_GL"]
    packages = _PACKAGES.get(backend, "libosmesa6")
    return InfrastructureError(
        f"MuJoCo's off-screen renderer\n  found:    MUJOCO_GL={backend} does not load ({error})"
        f"\n  expected: the Debian package {packages}, or another MUJOCO_GL (osmesa, egl)"
        f"\n  remedy:   sudo apt-get install --no-install-recommends {packages}"
    )


try:
    import mujoco
except ModuleNotFoundError:
    raise
except (ImportError, AttributeError, OSError, RuntimeError) as error:
    raise _no_renderer(error) from error

if getattr(mujoco.gl_context.GLContext, "__module__", None) != f"mujoco.{os.environ['MUJOCO_GL']}":
    raise InfrastructureError(
        "MuJoCo's off-screen renderer\n  found:    mujoco was imported before MUJOCO_GL was set"
        f"\n  expected: it set first\n  remedy:   export MUJOCO_GL={os.environ['MUJOCO_GL']}"
    )

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from metaworld import policies
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    from metaworld.sawyer_xyz_env import SawyerXYZEnv
warnings.filterwarnings("ignore", message="Constant.* may be too high", module="metaworld")  # experts are clipped here

# The targets of each expert's act, as its `_desired_pos` numbers its returns from 0: the others approach and grasp.
_ACTING = {
    "assembly": (1, 3, 4),
    "button-press": (1,),
    "button-press-topdown": (1,),
    "coffee-pull": (2,),
    "coffee-push": (2,),
    "door-open": (2,),
    "drawer-close": (3,),
    "hammer": (2, 3),
    "pick-place": (3,),
    "plate-slide": (2,),
    "push": (2,),
    "sweep-into": (2,),
    "window-open": (2,),
}

_OPEN_WIDTH_M = 0.1  # Meta-World's own divisor of the finger distance, observation 3
_REST = np.array([0.0, 0.0, 0.0, -1.0])
_MODEL_STATE = ("body_pos", "body_quat", "site_pos", "site_quat", "geom_pos", "geom_rgba", "site_rgba")
_HIDDEN_GROUP = 5
_CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)))
_alive: list[MetaWorld] = []
_renderers: dict[tuple[str, int], mujoco.Renderer] = {}  # by task and size: environments of one task share meshes


def make_environment(task: str, rig: Rig) -> MetaWorld:
    """Make the environment of one task.

    Raises:
        BadInput: unknown task or camera.
        InfrastructureError: no renderer.
    """
    check_tasks(rig, [task])
    return MetaWorld(TASKS[task], rig)


@dataclass(frozen=True)
class _View:
    """A camera in use. `slope`: half the width of its view, at depth 1."""

    name: str
    camera: mujoco.MjvCamera
    slope: float


class MetaWorld:
    """One Meta-World task; see `world2act.sims.base.Environment`.

    The same seed gives the same episode, whatever ran in this environment before.
    """

    embodiment = EMBODIMENT

    def __init__(self, task: Task, rig: Rig) -> None:
        self.task, self._size, self._settle_steps = task, rig.image_size, rig.settle_steps
        make: Callable[..., SawyerXYZEnv] = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task.name}-v3-goal-observable"]
        self._env = make(seed=0)
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._expert = getattr(policies, f"Sawyer{task.name.title().replace('-', '')}V3Policy")()
        self._target, self._phase = _number_of_target(type(self._expert)), 0
        self._model, self._data = self._env.model, self._env.data
        self._model.vis.quality.offsamples = 0
        self._model.vis.quality.shadowsize = 0  # there are no shadows; their map takes 64 MiB per environment
        self._views = [self._mount(camera) for camera in rig.cameras]
        self._option = mujoco.MjvOption()
        self._pristine = {name: getattr(self._model, name).copy() for name in _MODEL_STATE}
        self._groups = self._model.geom_group.copy()
        self._bounded = self._model.geom_rbound > 0  # a plane has no box
        self._corners = self._model.geom_aabb[:, None, :3] + self._model.geom_aabb[:, None, 3:] * _CORNERS
        self._state = np.zeros(39)
        _alive.append(self)

    def reset(self, seed: int) -> None:
        for name, value in self._pristine.items():
            getattr(self._model, name)[:] = value
        mujoco.mj_resetData(self._model, self._data)
        mujoco.mj_forward(self._model, self._data)
        self._env.seed(seed)
        self._state, _ = self._env.reset()
        for _ in range(self._settle_steps):
            self._state, *_ = self._env.step(_REST)
        mujoco.mj_forward(self._model, self._data)

    def observe(self) -> Observation:
        proprio = np.append(self._state[:3], self.gripper_opening()).astype(np.float32)
        images = {view.name: self._picture(view, self._size) for view in self._views}
        return Observation(images, proprio, self.task.instruction, self.scene())

    def scene(self) -> np.ndarray:
        """Positions of the object, a second object and the target, metres, float32 (9,); zeros where there is none."""
        return np.concatenate([self._state[4:7], self._state[11:14], self._state[36:39]]).astype(np.float32)

    def step(self, action: np.ndarray) -> bool:
        self._state, _, _, _, info = self._env.step(np.clip(np.asarray(action, np.float64), -1, 1))
        return bool(info["success"])

    def expert_action(self) -> np.ndarray:
        # copies: an expert may write into what it is shown
        self._phase = int(self._target(self._expert._parse_obs(self._state.copy())) in _ACTING[self.task.name])
        return np.clip(self._expert.get_action(self._state.copy()), -1, 1).astype(np.float32)

    def expert_phase(self) -> int:
        return self._phase

    def gripper_opening(self) -> float:
        return float(self._state[3]) * _OPEN_WIDTH_M

    def render(self, size: int) -> np.ndarray:
        return self._picture(self._views[0], size)

    def _picture(self, view: _View, size: int) -> np.ndarray:
        renderer = _renderers.get((self.task.name, size)) or self._make_renderer(size)
        self._hide_geoms_outside(view)
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, view.camera, mujoco.mjtCatBit.mjCAT_ALL.value, renderer.scene
        )
        frame = renderer.render(out=np.zeros((size, size, 3), np.uint8))
        check_contrast(self.task.name, frame)
        return np.ascontiguousarray(frame[::-1, ::-1])

    def close(self) -> None:
        """Nothing: environments and renderers are freed with their process, or later ones would render nothing."""

    def _mount(self, mount: CameraMount) -> _View:
        names = [self._model.camera(i).name for i in range(self._model.ncam)]
        if mount.name not in names:
            raise BadInput("params.yaml", "demos.cameras", mount.name, f"some of {names}", "name cameras of the model")
        camera, view = self._model.camera(mount.name), mujoco.MjvCamera()
        if mount.position_m:
            camera.pos[:] = mount.position_m
        if mount.fovy_deg:
            camera.fovy[:] = mount.fovy_deg
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera.id
        return _View(mount.name, view, np.tan(np.radians(camera.fovy[0]) / 2))

    def _make_renderer(self, size: int) -> mujoco.Renderer:
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = size
        try:
            renderer = mujoco.Renderer(self._model, size, size)
        except (RuntimeError, AttributeError, OSError, mujoco.FatalError) as error:
            raise _no_renderer(error) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = False
        _renderers[self.task.name, size] = renderer
        return renderer

    def _hide_geoms_outside(self, view: _View) -> None:
        """Skip geoms whose box is entirely beyond one side of the camera's view: the same pixels in less time."""
        data, camera = self._data, self._data.camera(view.name)
        turn = data.geom_xmat.reshape(-1, 3, 3)
        corners = data.geom_xpos[:, None] + np.einsum("gij,gkj->gki", turn, self._corners)
        x, y, z = np.moveaxis((corners - camera.xpos) @ camera.xmat.reshape(3, 3), -1, 0)
        reach = -z * view.slope  # half the view's width at that depth
        beyond = [(side > reach).all(1) for side in (x, -x, y, -y)]
        hidden = np.logical_or.reduce(beyond) & self._bounded
        self._model.geom_group[:] = np.where(hidden, _HIDDEN_GROUP, self._groups)


def _number_of_target(expert: type) -> Callable[[dict[str, np.ndarray]], int]:
    """The expert's own `_desired_pos`, except that every `return` returns its number in the source, not a position."""
    source = vars(expert)["_desired_pos"].__func__
    tree = ast.parse(textwrap.dedent(inspect.getsource(source)))
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
    for number, node in enumerate(sorted(returns, key=lambda node: node.lineno)):
        node.value = ast.Constant(number)
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    function.decorator_list = []  # a static method; called as a function here
    names = dict(source.__globals__)
    exec(compile(ast.fix_missing_locations(tree), inspect.getfile(expert), "exec"), names)  # the library's code
    return names["_desired_pos"]
