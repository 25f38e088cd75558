"""Finding a simulator: ours by name, another package's by entry point; and a pool over one that is not ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import toy_simulator
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims import checks
from world2act.sims.pool import EnvironmentPool, SlotsLost
from world2act.sims.rig import CameraMount, Rig
from world2act.sims.simulator import Simulator, WorkerProgram, load_simulator

RIG = Rig("toy", (CameraMount("front"),), image_size=8, settle_steps=0)


@pytest.mark.parametrize("name", ["metaworld", "libero", "robocasa"])
def test_ours_fulfil_the_contract_without_being_installed(name: str) -> None:
    simulator = load_simulator(name)
    assert isinstance(simulator, Simulator)
    assert simulator.tasks and all(key == task.name for key, task in simulator.tasks.items())


@pytest.mark.parametrize("name", ["gazebo", "pool", "../metaworld", "metaworld.environment"])
def test_a_name_without_a_simulator_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"demos\.simulator"):
        load_simulator(name)


def test_another_packages_simulator_joins_by_entry_point(tmp_path: Path) -> None:
    """Its worker finds it too: the pool runs it in a process of its own."""
    metadata = tmp_path / "toy_simulator-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-simulator\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[world2act.sims]\ntoy = tests.helpers.toy_simulator\n")
    code = (
        "from world2act.sims.pool import EnvironmentPool\n"
        "from world2act.sims.rig import CameraMount, Rig\n"
        "with EnvironmentPool(Rig('toy', (CameraMount('front'),), 8, 0), ['reach'], workers=1) as pool:\n"
        "    print(pool.reset({0: 3})[0].instruction)\n"
    )
    variables = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "move to the end of the line\n"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> toy_simulator.ToySimulator:
    """The toy, known by name in this process, whose worker a test may replace."""
    simulator = toy_simulator.ToySimulator()
    monkeypatch.setattr(checks, "load_simulator", lambda name: simulator)
    return simulator


def test_numbers_are_those_of_this_process(toy: toy_simulator.ToySimulator) -> None:
    alone = toy.make_environment("reach", RIG)
    alone.reset(4)
    chunk = np.random.default_rng(0).normal(0, 1, (5, 2)).astype(np.float32)
    with EnvironmentPool(RIG, ["reach"] * 3, workers=2) as pool:
        first = pool.reset({0: 3, 1: 4, 2: 5})
        np.testing.assert_array_equal(first[1].images["front"], alone.observe().images["front"])
        result = pool.step({1: chunk})[1]
        film = pool.replay(1, 4, result.actions, 16)
    for action in np.clip(chunk, -1, 1):
        alone.step(action)
    np.testing.assert_array_equal(result.observation.proprio, alone.observe().proprio)
    np.testing.assert_array_equal(film[-1], alone.render(16))


@pytest.mark.parametrize(
    ("task", "error", "said"), [("no-renderer", InfrastructureError, "libosmesa6"), ("no-camera", BadInput, "wrist")]
)
def test_environments_that_cannot_be_made_are_not_lost_slots(
    toy: toy_simulator.ToySimulator, monkeypatch: pytest.MonkeyPatch, task: str, error: type[Exception], said: str
) -> None:
    """What is wrong with every one of them ends the run, with its own message."""
    monkeypatch.setattr(toy, "worker", lambda: WorkerProgram.here("tests.helpers.served"), raising=False)
    monkeypatch.setattr(type(toy), "tasks", {task: toy.tasks["reach"]})
    with EnvironmentPool(RIG, [task, task], workers=2) as pool, pytest.raises(error, match=said) as raised:
        pool.reset({0: 1, 1: 2})
    assert not isinstance(raised.value, SlotsLost)
