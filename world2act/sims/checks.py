"""Checks of what the parameters ask of a simulator, before any process starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from world2act.core.errors import BadInput
from world2act.sims.rig import Rig
from world2act.sims.simulator import Simulator, load_simulator

if TYPE_CHECKING:
    from world2act.core.params import Demos


def check_tasks(rig: Rig, tasks: Iterable[str]) -> Simulator:
    """Load the simulator of a rig, and check that it has the tasks and the cameras' evaluation protocol.

    Raises:
        BadInput: there is no such simulator, or it has no such task or protocol.
    """
    simulator = load_simulator(rig.simulator)
    for task in tasks:
        if task not in simulator.tasks:
            expected = f"some of {sorted(simulator.tasks)}"
            raise BadInput("params.yaml", "demos.tasks", task, expected, "correct the task's name")
    if rig.protocol is not None and rig.protocol not in simulator.evaluation_protocols:
        known = sorted(simulator.evaluation_protocols)
        expected = f"null, or one of {known}" if known else f"null: {rig.simulator} follows no published protocol"
        raise BadInput("params.yaml", "demos.cameras, protocol", rig.protocol, expected, "set it to null")
    return simulator


def check_protocol(demos: Demos, max_steps: int | None = None) -> None:
    """Check that the parameters match the cameras' evaluation protocol, if they name one.

    Args:
        max_steps: `evaluate.max_steps`, where episodes are evaluated.

    Raises:
        BadInput: they do not; the message names every difference.
    """
    rig = Rig.from_params(demos)
    simulator = check_tasks(rig, ())
    if rig.protocol is None:
        return
    protocol = simulator.evaluation_protocols[rig.protocol]
    suites = sorted({task.partition("/")[0] for task in demos.tasks})
    wanted: dict[str, tuple[object, object]] = {
        "settle_steps": (rig.settle_steps, protocol.settle_steps),
        "image_size": (rig.image_size, protocol.image_size),
        "test_per_task": (demos.test_per_task, protocol.trials),
        "cameras, position_m": ({camera.position_m for camera in rig.cameras}, {None}),
        "cameras, fovy_deg": ({camera.fovy_deg for camera in rig.cameras}, {None}),
        "tasks, suites": (suites, suites[:1] if suites[0] in protocol.max_steps else [*protocol.max_steps][:1]),
    }
    if max_steps is not None:
        wanted["evaluate.max_steps"] = (max_steps, protocol.max_steps.get(suites[0]))
    differences = {key: pair for key, pair in wanted.items() if pair[0] != pair[1]}
    if differences:
        found, expected = ({key: pair[i] for key, pair in differences.items()} for i in (0, 1))
        remedy = "set them so, one suite at a time; or set protocol of demos.cameras to null and claim no such score"
        raise BadInput("params.yaml", f"demos under {protocol.name}", found, expected, remedy)
