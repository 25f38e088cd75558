"""Published ways to evaluate on a simulator's benchmark, as named presets.

A preset changes nothing silently. `protocol` of `demos.cameras` names it, the parameters must match it
(`world2act.sims.checks.check_protocol`), the simulator makes its pictures as the published code does, and every
result holds it in full.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationProtocol:
    """A published evaluation protocol.

    Attributes:
        max_steps: suite → control steps per episode, without the steps for settling.
        settle_steps: control steps at rest, gripper open, before the first observation.
        trials: episodes per task; trial i starts from the task's i-th official initial state.
        seed: of the global generator before every reset; it places the fixtures, which initial states do not contain.
        render_size, image_size: pixels per side as rendered, and as passed to the policy.
        rendering: multisampling, shadows and reflections of the simulator's own model.
        resize: how the rendered picture becomes the policy's.
        rotation: of the picture, before the resize.
        success: when an episode counts as one.
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
