"""LIBERO's environments, as they run in a worker under LIBERO's interpreter; see world2act/sims/libero/__init__.py.

Traps closed here:

- Pictures and states are read from MuJoCo directly: robosuite's observations render every frame, also those that
  nobody looks at. Under a published protocol they are read where robosuite reads them after `set_init_state`: not at
  the end of a control step but one physics step before it. So they are its observations to the byte.
- LIBERO samples from numpy's global generator: it is seeded before every reset, so that an episode depends on its
  seed alone.
- Building the model again at every reset takes seconds and frees a renderer, after which frames may be blank: models
  are built once, nothing is freed, and a frame without contrast raises. What robosuite's soft reset leaves of the last
  episode is restored: the gripper's command, and the positions of fixtures, to which LIBERO adds.
- LIBERO's initial states are pickled arrays: they are read by an unpickler that knows arrays and nothing else.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import zipfile
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import mujoco
import numpy as np
from libero.libero import get_libero_path
from libero.libero.envs.env_wrapper import ControlEnv
from robosuite.utils.transform_utils import convert_quat, quat2axisangle

from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims.base import Observation, Task, check_contrast
from world2act.sims.libero import EMBODIMENT, TASKS
from world2act.sims.libero.assets import check_assets
from world2act.sims.libero.expert import Expert
from world2act.sims.libero.protocols import PROTOCOLS
from world2act.sims.rig import CameraMount, Rig
from world2act.sims.scene_seeds import parse_scene_seed

_CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
_REST = np.array([0.0] * 6 + [-1.0])
_FIXTURE_SEED = 7  # openpi's; official initial states hold no fixtures
_PHYSICS_STEPS = 25  # of 2 ms each, in a control step of 50 ms
_AT_HOME = {"pos": "0 0 0", "quat": "1 0 0 0"}
_SEEDS = 2**32
_MALFORMED = (EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError)  # what else unpickling may raise
_alive: list[Any] = []
_contexts: dict[tuple[str, bool], Any] = {}  # environments of one task share meshes and textures


def make_environment(task: str, rig: Rig) -> Libero:
    """See `world2act.sims.simulator.Simulator.make_environment`."""
    check_assets(Path(get_libero_path("assets")))
    names = [mount.name for mount in rig.cameras]
    if not _CAMERAS.keys() >= set(names):
        raise BadInput("params.yaml", "demos.cameras", names, f"some of {[*_CAMERAS]}", "name these")
    return Libero(TASKS[task], rig)


class Libero:
    """One LIBERO task; see `world2act.sims.base.Environment`. The same seed gives the same episode."""

    embodiment = EMBODIMENT

    def __init__(self, task: Task, rig: Rig) -> None:
        self.task, self._size, self._settle_steps = task, rig.image_size, rig.settle_steps
        self._protocol = PROTOCOLS[rig.protocol] if rig.protocol else None
        suite, stem = task.name.split("/")
        self._states = read_initial_states(Path(get_libero_path("init_states")) / suite / f"{stem}.pruned_init")
        self._env = ControlEnv(
            bddl_file_name=str(Path(get_libero_path("bddl_files")) / suite / f"{stem}.bddl"),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            hard_reset=False,
            ignore_done=True,
        ).env
        self._model, self._data = self._env.sim.model._model, self._env.sim.data._data
        self._env._observables = {}  # read 25 times a control step; here, when they are asked for
        self._env._update_observables = self._after_physics_step
        self._seen = copy.copy(self._data) if self._protocol else self._data
        self._physics_steps = 0
        self._robot = self._env.robots[0]
        self._views = {mount.name: self._mount(mount) for mount in rig.cameras}
        self._fixtures = {
            self._env.obj_body_id[name]: [_numbers(fixture.get_obj(), key, home) for key, home in _AT_HOME.items()]
            for name, fixture in self._env.fixtures_dict.items()
        }
        self._renderer = _Renderer.shared(task.name, self._model, tuned=self._protocol is None)
        self._goals = self._env.parsed_problem["goal_state"]
        _alive.append(self)

    def reset(self, seed: int) -> None:
        scene = parse_scene_seed(seed)
        official, index = scene.set == "test", scene.index
        if official and index >= len(self._states):
            raise BadInput(
                "params.yaml",
                "demos.test_per_task",
                f"test scene {index} of {self.task.name}",
                f"at most {len(self._states)} per task: LIBERO's official initial states",
                "lower it",
            )
        np.random.seed((self._protocol.seed if self._protocol else _FIXTURE_SEED) if official else seed % _SEEDS)
        self._robot.gripper.current_action = np.zeros(self._robot.gripper.dof)
        for body, (position, rotation) in self._fixtures.items():
            self._model.body_pos[body], self._model.body_quat[body] = position, rotation
        with contextlib.redirect_stdout(None):
            self._env.reset()
        if official:
            self._env.sim.set_state_from_flattened(self._states[index])
            self._env.sim.forward()
            self._env._check_success()
            self._env._post_process()
        self._expert = Expert(self._model, self._data, self._robot.eef_site_id, self._env.obj_body_id, self._goals)
        self._physics_steps = 0
        self._look()
        for _ in range(self._settle_steps):
            self._env.step(_REST)

    def observe(self) -> Observation:
        size = self._protocol.render_size if self._protocol else self._size
        return Observation(
            {name: _resize(self._picture(self._seen, view, size), self._size) for name, view in self._views.items()},
            self._proprio(),
            self.task.instruction,
            self.scene(),
        )

    def step(self, action: np.ndarray) -> bool:
        self._expert.time += 1
        return bool(self._env.step(np.clip(np.asarray(action, np.float64), -1, 1))[2])

    def scene(self) -> np.ndarray:
        """Positions of the first goal's object, the last goal's object and the first goal's target, metres, float32
        (9,); zeros where there is none."""
        last = self._goals[-1]
        names = [self._goals[0][1], last[1] if len(self._goals) > 1 else None, *self._goals[0][2:3], None][:3]
        return np.concatenate([self._position(name) for name in names]).astype(np.float32)

    def expert_action(self) -> np.ndarray:
        return self._expert.action()

    def expert_phase(self) -> int:
        return self._expert.phase

    def gripper_opening(self) -> float:
        left, right = self._fingers(self._data)
        return float(left - right)

    def render(self, size: int) -> np.ndarray:
        return self._picture(self._data, next(iter(self._views.values())), size)

    def _mount(self, mount: CameraMount) -> mujoco.MjvCamera:
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(_CAMERAS[mount.name]).id
        if mount.position_m:
            self._model.cam_pos[view.fixedcamid] = mount.position_m
        if mount.fovy_deg:
            self._model.cam_fovy[view.fixedcamid] = mount.fovy_deg
        return view

    def _picture(self, data: mujoco.MjData, view: mujoco.MjvCamera, size: int) -> np.ndarray:
        frame = self._renderer.render(data, view, size)
        check_contrast(self.task.name, frame)
        return np.ascontiguousarray(frame[::-1, ::-1])

    def close(self) -> None:
        """Nothing: environments and renderers are freed with their process, or later ones would render nothing."""

    def _after_physics_step(self, force: bool = False) -> None:
        """Replaces robosuite's update of its observables, which it calls after every physics step."""
        if not force:
            self._physics_steps += 1
            if self._physics_steps % _PHYSICS_STEPS == _PHYSICS_STEPS - 1:
                self._look()

    def _look(self) -> None:
        if self._protocol:
            self._seen = copy.copy(self._data)

    def _fingers(self, data: mujoco.MjData) -> np.ndarray:
        return data.qpos[self._robot._ref_gripper_joint_pos_indexes]

    def _proprio(self) -> np.ndarray:
        data = self._seen
        rotation = convert_quat(data.body(self._robot.robot_model.eef_name).xquat.copy(), to="xyzw")
        position = data.site_xpos[self._robot.eef_site_id]
        return np.concatenate([position, quat2axisangle(rotation), self._fingers(data)]).astype(np.float32)

    def _position(self, name: str | None) -> np.ndarray:
        if name is None:
            return np.zeros(3)
        if name in self._env.obj_body_id:
            return self._data.xpos[self._env.obj_body_id[name]]
        return self._data.site(name).xpos


class _Renderer:
    """MuJoCo's off-screen renderer over one model's meshes and textures, for any size and any data of that model."""

    def __init__(self, model: mujoco.MjModel, tuned: bool) -> None:
        if tuned:
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = 0
        self._model = model
        self._gl = mujoco.GLContext(640, 480)
        self._gl.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        if tuned:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._scene.flags[flag] = False
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # collision shapes, which robosuite hides too
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    @classmethod
    def shared(cls, task: str, model: mujoco.MjModel, tuned: bool) -> _Renderer:
        if (task, tuned) not in _contexts:
            try:
                _contexts[task, tuned] = cls(model, tuned)
            except (RuntimeError, AttributeError, OSError, mujoco.FatalError) as error:
                raise InfrastructureError(
                    f"MuJoCo's off-screen renderer\n  found:    {error}\n  expected: a MUJOCO_GL that loads"
                    "\n  remedy:   sudo apt-get install --no-install-recommends libosmesa6"
                ) from error
        return _contexts[task, tuned]

    def render(self, data: mujoco.MjData, view: mujoco.MjvCamera, size: int) -> np.ndarray:
        """uint8 (size, size, 3), bottom row first."""
        self._gl.make_current()
        if size > min(self._context.offWidth, self._context.offHeight):
            mujoco.mjr_resizeOffscreen(size, size, self._context)
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, view, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        frame, viewport = np.zeros((size, size, 3), np.uint8), mujoco.MjrRect(0, 0, size, size)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, viewport, self._context)
        return frame


def read_initial_states(path: Path) -> np.ndarray:
    """The official initial states of a task, float64 (N, state): time, positions and velocities as MuJoCo has them.

    Raises:
        BadInput: the file holds anything but an array of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as stream:
                states = _ArrayUnpickler(stream).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, *_MALFORMED, StopIteration, OSError) as error:
        raise BadInput(
            path, "", error or "no data.pkl", "LIBERO's initial states", "run `make libero` again"
        ) from error
    if not isinstance(states, np.ndarray) or states.dtype != np.float64 or states.ndim != 2:
        raise BadInput(path, "", type(states), "float64 (N, state)", "run `make libero` again")
    return states


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and refuses everything else that a pickle could name."""

    _KNOWN = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.zeros(0))[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._KNOWN[module, name]


def _numbers(element: Element, key: str, default: str) -> np.ndarray:
    return np.array(element.get(key, default).split(), float)


def _resize(frame: np.ndarray, size: int) -> np.ndarray:
    if frame.shape[0] == size:
        return frame
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))
