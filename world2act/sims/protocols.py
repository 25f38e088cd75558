"""The two published ways to evaluate on LIBERO, as named presets: what to set, and what stands in every result.

A preset changes nothing in silence. `demos.camera.protocol` names it, the parameters must be what it says (`faults`),
and the simulator makes its pictures as the published code does. The two disagree, which is why numbers published
under them cannot be compared; sources: openpi examples/libero/main.py, LeRobot src/lerobot/envs/libero.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """A published evaluation protocol.

    Attributes:
        max_steps: suite → control steps of an episode, the settling not counted.
        settle_steps: control steps at rest, gripper open, before the first observation.
        trials: episodes a task; trial i starts from the task's i-th official initial state.
        seed: of the global generator before every reset: it places the fixtures, which initial states do not hold.
        render_size, image_size: pixels a side as rendered, and as given to the policy.
        rendering: multisampling, shadows and reflections of the simulator's own model.
        resize: how the one becomes the other.
        rotation: of the picture, before the resize.
        success: when an episode counts.
    """

    name: str
    source: str
    max_steps: dict[str, int]
    trials: int
    seed: int
    render_size: int
    image_size: int
    resize: str
    settle_steps: int = 10
    settle_action: tuple[float, ...] = (0.0,) * 6 + (-1.0,)
    rendering: str = "the simulator's own quality"
    rotation: str = "by 180 degrees"
    success: str = "as soon as the goal predicates hold after a step"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="libero-openpi",
            source="openpi, examples/libero/main.py",
            max_steps={
                "libero_spatial": 220,
                "libero_object": 280,
                "libero_goal": 300,
                "libero_10": 520,
                "libero_90": 400,
            },
            trials=50,
            seed=7,
            render_size=256,
            image_size=224,
            resize="bilinear, Pillow",
        ),
        Protocol(
            name="libero-lerobot",
            source="LeRobot, src/lerobot/envs/libero.py; trials as in its documentation (its code: 50)",
            max_steps={
                "libero_spatial": 280,
                "libero_object": 280,
                "libero_goal": 300,
                "libero_10": 520,
                "libero_90": 400,
            },
            trials=10,
            seed=1000,
            render_size=360,
            image_size=360,
            resize="none",
        ),
    )
}


def faults(
    protocol: Protocol, tasks: Iterable[str], *, settle_steps: int, image_size: int, test_per_task: int, max_steps: int
) -> list[str]:
    """What of the parameters is not as the protocol says, one line each; [] where all of it is."""
    suites = {task.partition("/")[0] for task in tasks}
    if len(suites) > 1 or not suites <= protocol.max_steps.keys():
        return [f"demos.tasks are of {sorted(suites)}: a protocol runs one suite at a time, of {[*protocol.max_steps]}"]
    wanted = {
        "demos.settle_steps": (settle_steps, protocol.settle_steps),
        "demos.image_size": (image_size, protocol.image_size),
        "demos.test_per_task": (test_per_task, protocol.trials),
        "evaluate.max_steps": (max_steps, protocol.max_steps[suites.pop()]),
    }
    return [f"{key} is {found}, not {expected}" for key, (found, expected) in wanted.items() if found != expected]
