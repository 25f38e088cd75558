"""Raw demonstrations as LIBERO's scripts/collect_demonstration.py stores them, from a scripted hand instead of a
spacemouse: a BDDL file in, a demo.hdf5 for LIBERO's scripts/create_dataset.py out. Runs where hf-libero is installed.

    python write_libero_raw.py libero_object/pick_up_the_milk_and_place_it_in_the_basket.bddl OUT.hdf5
"""

import json
import sys
from pathlib import Path

import h5py
import libero.libero.envs.bddl_utils as bddl
import numpy as np
from libero.libero import get_libero_path
from libero.libero.envs import TASK_MAPPING
from robosuite import load_controller_config

DEMOS, STEPS, HELD = 2, 32, 3

name, out = sys.argv[1:]
path = str(Path(get_libero_path("bddl_files")) / name)
problem = bddl.get_problem_info(path)
config = {"robots": ["Panda"], "controller_configs": load_controller_config(default_controller="OSC_POSE")}
environment = TASK_MAPPING[problem["problem_name"]](
    bddl_file_name=path,
    **config,
    has_renderer=False,
    has_offscreen_renderer=False,
    ignore_done=True,
    use_camera_obs=False,
    reward_shaping=True,
    control_freq=20,
)
random = np.random.default_rng(0)
with h5py.File(out, "w") as file:
    data = file.create_group("data")
    for demo in range(1, DEMOS + 1):
        environment.reset()
        group, states, actions = data.create_group(f"demo_{demo}"), [], []
        group.attrs["model_file"] = environment.sim.model.get_xml()
        for step in range(STEPS):
            if step % HELD == 0:
                action = np.append(random.uniform(-0.8, 0.8, 3), random.uniform(-0.1, 0.1, 3))
            states.append(environment.sim.get_state().flatten())
            actions.append(np.append(action, 1.0 if step > STEPS // 2 else -1.0))
            environment.step(actions[-1])
        group.create_dataset("states", data=np.array(states))
        group.create_dataset("actions", data=np.array(actions))
    data.attrs["env"] = type(environment).__name__
    data.attrs["env_info"] = json.dumps(config)
    data.attrs["problem_info"] = json.dumps(problem)
    data.attrs["bddl_file_name"] = path
