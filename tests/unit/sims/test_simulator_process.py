"""The process boundary of simulators: the same bytes as without it, and every way of failing said clearly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.rigs import CAMERA, make, metaworld_rig
from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims.base import Environment
from world2act.sims.metaworld.environment import make_environment
from world2act.sims.process import ProcessEnvironment, SimulatorProcess, shared_process
from world2act.sims.rig import CameraMount, Rig
from world2act.sims.simulator import WorkerProgram
from world2act.sims.wire import receive, send

# PYTHONPATH is for tests.helpers.served alone; world2act is found without it
PROGRAM = WorkerProgram(Path(sys.executable), "tests.helpers.served", {"PYTHONPATH": str(ROOT)})
RIG = metaworld_rig()


def start(timeout_s: float = 120.0) -> SimulatorProcess:
    return SimulatorProcess(PROGRAM, timeout_s)


@pytest.fixture
def broken() -> Iterator[ProcessEnvironment]:
    process = start()
    yield process.make_environment("broken", RIG)
    process.stop()


def test_the_same_bytes_as_in_this_process() -> None:
    process = start()
    theirs, ours = process.make_environment("coffee-push", RIG), make("coffee-push")
    other = process.make_environment("plate-slide", RIG)
    other.reset(1)
    assert isinstance(theirs, Environment)
    assert theirs.task == ours.task and theirs.embodiment == ours.embodiment
    for environment in (theirs, ours):
        environment.reset(3)
    for _ in range(12):
        action = ours.expert_action()
        np.testing.assert_array_equal(theirs.expert_action(), action)
        assert theirs.expert_phase() == ours.expert_phase()
        a, b = theirs.observe(), ours.observe()
        assert a.instruction == b.instruction and a.images.keys() == b.images.keys()
        for mine, its in [(a.images["corner2"], b.images["corner2"]), (a.proprio, b.proprio), (a.scene, b.scene)]:
            np.testing.assert_array_equal(mine, its)
            assert mine.dtype == its.dtype
        assert theirs.step(action) is ours.step(action)
        assert theirs.gripper_opening() == ours.gripper_opening()
    np.testing.assert_array_equal(theirs.render(96), ours.render(96))
    np.testing.assert_array_equal(other.observe().scene, other.observe().scene)
    process.stop()


def test_every_camera_comes_through() -> None:
    cameras = [CAMERA, CameraMount("gripperPOV")]
    both, second = metaworld_rig(32, cameras=cameras), metaworld_rig(32, cameras=cameras[1:])
    process = start()
    theirs = process.make_environment("coffee-push", both)
    ours = make_environment("coffee-push", both)
    alone = make_environment("coffee-push", second)
    for environment in (theirs, ours, alone):
        environment.reset(3)
    seen, expected = theirs.observe().images, ours.observe().images
    assert list(seen) == list(expected) == ["corner2", "gripperPOV"]
    for name, picture in expected.items():
        np.testing.assert_array_equal(seen[name], picture)
    np.testing.assert_array_equal(alone.observe().images["gripperPOV"], expected["gripperPOV"])
    np.testing.assert_array_equal(theirs.render(48), ours.render(48))
    assert (alone.render(48) != ours.render(48)).any()
    process.stop()


def test_what_is_printed_does_not_touch_the_messages(broken: ProcessEnvironment) -> None:
    for _ in range(3):
        broken.reset(0)


def test_bad_input_arrives_whole_and_the_process_goes_on(broken: ProcessEnvironment) -> None:
    with pytest.raises(BadInput) as raised:
        broken.reset(7)
    error = raised.value
    assert (error.where, error.key, error.found, error.remedy) == ("params.yaml", "demos.tasks", "7", "choose 0")
    broken.reset(0)


def test_an_exception_shows_what_it_was_and_what_was_printed(broken: ProcessEnvironment) -> None:
    with pytest.raises(InfrastructureError, match="ValueError in 'observe': a number out of place") as raised:
        broken.observe()
    assert "about to fail" in str(raised.value) and "Traceback" in str(raised.value)
    with pytest.raises(InfrastructureError, match="died"):
        broken.reset(0)


def test_an_infrastructure_error_stays_one(broken: ProcessEnvironment) -> None:
    with pytest.raises(InfrastructureError, match="no renderer here"):
        broken.expert_action()


def test_a_death_is_said_and_the_next_environment_gets_a_new_process() -> None:
    first = shared_process(PROGRAM)
    assert shared_process(PROGRAM) is first
    with pytest.raises(InfrastructureError, match="its process died, exit code -9"):
        first.make_environment("broken", RIG).step(np.zeros(1))
    second = shared_process(PROGRAM)
    assert second is not first
    second.make_environment("broken", RIG).reset(0)
    second.stop()


def test_silence_ends_in_an_error() -> None:
    process = start()
    environment = process.make_environment("broken", RIG)
    process._timeout_s = 0.5
    with pytest.raises(InfrastructureError, match=r"no answer to 'gripper_opening' within 0\.5 s"):
        environment.gripper_opening()
    assert not process.alive


def test_a_missing_interpreter_and_module() -> None:
    with pytest.raises(BadInput, match="/nowhere/python"):
        SimulatorProcess(WorkerProgram(Path("/nowhere/python"), "tests.helpers.served"))
    with pytest.raises(BadInput, match="'no_such_module' is missing"):
        SimulatorProcess(WorkerProgram(Path(sys.executable), "no_such_module")).make_environment("x", RIG)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_it_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "from tests.unit.sims.test_simulator_process import RIG, start\n"
        "import time\n"
        "process = start(); process.make_environment('broken', RIG); print(process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the simulator process outlives its parent"
        time.sleep(0.05)


def test_the_program_needs_neither_torch_nor_pydantic() -> None:
    """It runs in the simulator's environment, which has none of this project's packages."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'pydantic', 'pyarrow', 'PIL', 'yaml', 'rich', 'metaworld'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import runpy, world2act.sims.serve as serve\n"
        "serve._find_package()\n"
        "import world2act.sims.pool, world2act.sims.libero, world2act.sims.robocasa, world2act.collection.expert\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_messages() -> None:
    here, there = socket.socketpair()
    rng = np.random.default_rng(0)
    value = {
        "array": rng.normal(size=(3, 4)).astype(np.float32)[::-1],
        "dict": {"none": None, "flag": True, "float": 0.1 + 0.2, "int": 2**60, "text": "ö\n"},
        "list": [np.arange(3), np.zeros((0, 2)), np.bool_(True), np.float64(1e-300)],
    }
    value["rig"] = Rig("toy", (CAMERA, CameraMount("wrist")), 64, 0)
    big = rng.integers(0, 255, 4_000_000).astype(np.uint8)
    writer = threading.Thread(target=lambda: (send(here, value), send(here, big)))
    writer.start()
    received, large = receive(there), receive(there)
    writer.join()
    np.testing.assert_array_equal(received["array"], value["array"])
    assert received["array"].dtype == np.float32 and received["dict"] == value["dict"]
    assert received["rig"] == value["rig"] and hash(received["rig"]) == hash(value["rig"])
    assert [np.asarray(each).tolist() for each in received["list"]] == [[0, 1, 2], [], True, 1e-300]
    np.testing.assert_array_equal(large, big)
    with pytest.raises(TypeError):
        send(here, np.array([object()]))
    here.close()
    with pytest.raises(EOFError):
        receive(there)
