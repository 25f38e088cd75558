"""A scripted expert demonstrates a task under noise. It runs in the simulator's worker, so it needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world2act.core.errors import InfrastructureError
from world2act.core.seeds import derive
from world2act.sims.base import Environment, Observation

_STEPS_AFTER_SUCCESS = 4


@dataclass(frozen=True)
class ExpertSettings:
    """How the expert is disturbed, and how long it may take.

    Attributes:
        action_noise: standard deviation of the noise on its actions.
        noise_steps: control steps for which one draw of the noise is held.
        max_steps: control steps within which it must succeed.
    """

    action_noise: float
    noise_steps: int
    max_steps: int


@dataclass
class Demonstration:
    """T steps of an expert; row t was observed before, or is, action t.

    Attributes:
        images: camera name → uint8 (T, H, W, 3).
        proprio, scene: float32 (T, ...), as in `Observation`.
        phase: float32 (T, 1), the index of the skill that the expert was at.
        action: float32 (T, action_dim), the expert's own action for each state.
        executed: float32 (T, action_dim), that action with the noise.
    """

    images: dict[str, np.ndarray]
    proprio: np.ndarray
    scene: np.ndarray
    phase: np.ndarray
    action: np.ndarray
    executed: np.ndarray


def demonstrate(environment: Environment, seed: int, settings: ExpertSettings) -> Demonstration | None:
    """Let the expert act under noise from the scene of `seed`, until shortly after it has succeeded.

    The noise is held for some steps, so that the arm really strays and the expert's recovery is seen. The label
    of every state is the expert's clean action for it.

    Returns:
        The demonstration, or None where the expert did not succeed within `max_steps`.

    Raises:
        InfrastructureError: most frames of a camera are the same.
    """
    noise = np.random.default_rng(derive(seed, "action noise", environment.task.name))
    environment.reset(seed)
    observations: list[Observation] = []
    actions, executed, phases = [], [], []
    disturbance = np.zeros(environment.embodiment.action_dim)
    end = settings.max_steps
    for step in range(settings.max_steps + _STEPS_AFTER_SUCCESS):
        if step >= end:
            break
        if step % settings.noise_steps == 0:
            disturbance = noise.normal(0, settings.action_noise, disturbance.shape)
        observations.append(environment.observe())
        actions.append(environment.expert_action())
        phases.append(environment.expert_phase())
        executed.append(np.clip(actions[-1] + disturbance, -1, 1).astype(np.float32))
        if environment.step(executed[-1]) and end == settings.max_steps:
            end = step + 1 + _STEPS_AFTER_SUCCESS
    if end == settings.max_steps:
        return None
    images = {name: np.stack([o.images[name] for o in observations]) for name in observations[0].images}
    _check_frames_vary(environment.task.name, seed, images)
    return Demonstration(
        images,
        proprio=np.stack([o.proprio for o in observations]),
        scene=np.stack([o.scene for o in observations]),
        phase=np.array(phases, np.float32)[:, None],
        action=np.stack(actions),
        executed=np.stack(executed),
    )


def _check_frames_vary(task: str, seed: int, images: dict[str, np.ndarray]) -> None:
    for camera, frames in images.items():
        still = int((frames[1:] == frames[:-1]).all(axis=(1, 2, 3)).sum())
        if still > len(frames) // 2:
            raise InfrastructureError(
                f"{task}, seed {seed}, {camera}\n  found:    {still} of {len(frames)} frames equal the one before"
                "\n  expected: pictures that follow the moving arm\n  remedy:   run the stage again in a fresh process"
            )
