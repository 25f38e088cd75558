"""The two published ways to evaluate on LIBERO, as named presets: what to set, and what stands in every result.

A preset changes nothing in silence. `protocol` of `demos.cameras` names it, the parameters must be what it says
(`check_protocol`), and the simulator makes its pictures as the published code does. The two disagree, which is why
numbers published under them cannot be compared. Sources: openpi examples/libero/main.py, LeRobot
src/lerobot/envs/libero.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from world2act.core.errors import BadInput

if TYPE_CHECKING:
    from world2act.core.params import Demos  # simulators' own environments read this module too, and lack pydantic


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


def check_protocol(demos: Demos, max_steps: int | None = None) -> None:
    """Check that the parameters are what the cameras' protocol says, where they name one.

    Args:
        max_steps: `evaluate.max_steps`, where episodes are evaluated.

    Raises:
        BadInput: they are not; the message names every one.
    """
    if not demos.cameras[0].protocol:
        return
    protocol = PROTOCOLS[demos.cameras[0].protocol]
    suites = sorted({task.partition("/")[0] for task in demos.tasks})
    wanted = {
        "settle_steps": (demos.settle_steps, protocol.settle_steps),
        "image_size": (demos.image_size, protocol.image_size),
        "test_per_task": (demos.test_per_task, protocol.trials),
        "cameras, position_m": ({camera.position_m for camera in demos.cameras}, {None}),
        "cameras, fovy_deg": ({camera.fovy_deg for camera in demos.cameras}, {None}),
        "tasks, suites": (suites, suites[:1] if suites[0] in protocol.max_steps else [*protocol.max_steps][:1]),
    }
    if max_steps is not None:
        wanted["evaluate.max_steps"] = (max_steps, protocol.max_steps.get(suites[0]))
    faults = {key: pair for key, pair in wanted.items() if pair[0] != pair[1]}
    if faults:
        found, expected = ({key: pair[i] for key, pair in faults.items()} for i in (0, 1))
        remedy = "set them, one suite at a time; or protocol of demos.cameras to null, and make no claim"
        raise BadInput("params.yaml", f"demos under {protocol.name}", found, expected, remedy)
