"""Raw demonstrations in robomimic's layout, of a mobile Panda with RoboCasa's 12 actions: a raw.hdf5 for robomimic's
dataset_states_to_obs out, or with a second argument the `ep_meta` of its demonstrations into the file made from it, as
RoboCasa's fork of that script does. Runs where robosuite 1.5 is installed.

    python write_robomimic_raw.py raw.hdf5 [image.hdf5]
"""

import json
import sys

import h5py
import numpy as np
import robosuite
from robosuite.controllers import load_composite_controller_config

DEMOS, STEPS, HELD = 3, 32, 3
META = json.dumps({"lang": "lift the red cube"})

if len(sys.argv) > 2:
    with h5py.File(sys.argv[2], "a") as file:
        for demo in file["data"].values():
            demo.attrs["ep_meta"] = META
    sys.exit()
controller = load_composite_controller_config(robot="PandaOmron")
controller["composite_controller_specific_configs"] = {
    "body_part_ordering": ["right", "right_gripper", "base", "torso"]  # as RoboCasa sets it
}
arguments = {"robots": "PandaOmron", "controller_configs": controller, "control_freq": 20}
environment = robosuite.make(
    "Lift", **arguments, has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, ignore_done=True
)
assert environment.action_dim == 12
random = np.random.default_rng(0)
with h5py.File(sys.argv[1], "w") as file:
    data = file.create_group("data")
    for demo in range(1, DEMOS + 1):
        environment.reset()
        group, states, actions = data.create_group(f"demo_{demo}"), [], []
        group.attrs["model_file"] = environment.sim.model.get_xml()
        for step in range(STEPS):
            if step % HELD == 0:
                arm = np.append(random.uniform(-0.8, 0.8, 3), random.uniform(-0.1, 0.1, 3))
            states.append(environment.sim.get_state().flatten())
            actions.append(np.hstack([arm, 1.0 if step > STEPS // 2 else -1.0, np.zeros(4), -1.0]))
            environment.step(actions[-1])
        group.create_dataset("states", data=np.array(states))
        group.create_dataset("actions", data=np.array(actions))
        group.attrs["num_samples"] = STEPS
    env = {"env_name": "Lift", "type": 1, "env_version": robosuite.__version__, "env_kwargs": arguments}
    data.attrs["env_args"] = json.dumps(env)
