"""The time lag between actions and observations: actions and positions of episodes in, the lag out.

A source may store its observations before the action of the same row (lag 0) or after it (lag 1, as LIBERO does).
The lag is measured from the end effector's motion, whatever the source declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world2act.core.errors import BadInput
from world2act.data.info import ActionLag

LAGS = range(-4, 9)
EXPLAINED = 0.5
"""The smallest share of the motion's variance that actions must explain for a measured lag to be meaningful."""
ENOUGH = 20
"""The number of episodes from which a task is judged separately: of 480 draws of 20 episodes of a Meta-World task none
was misjudged; of 10 episodes, three; of 5, eight."""
_ONSET_SHARE = 0.3


class MotionResponse:
    """The response of motion to action, fitted incrementally: memory does not grow with the number of episodes.

    The peak of a plain correlation depends on the arm's inertia. The impulse response, fitted by least squares
    of displacement on the actions before *and after* it, is zero until the cause and then jumps.
    """

    def __init__(self) -> None:
        self.episodes = 0
        self._rows = 0
        self._sum = np.zeros(len(LAGS) + 1)
        self._products = np.zeros((len(LAGS) + 1, len(LAGS) + 1))

    def add(self, actions: np.ndarray, positions: np.ndarray) -> None:
        """Add an episode: actions (T, D), and the positions (T, D) that they move; row t is stored with action t."""
        self.episodes += 1
        motion = np.diff(positions.astype(np.float64), axis=0)
        steps = np.arange(LAGS[-1], len(motion) + LAGS[0])
        if not len(steps):
            return
        rows = np.stack([*(actions.astype(np.float64)[steps - lag] for lag in LAGS), motion[steps]], -1)
        rows = rows.reshape(-1, len(LAGS) + 1)
        self._rows += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    def onset(self) -> tuple[int, float]:
        """The lag at which motion begins to follow action: 0 where action t moves the arm between frames t and t + 1.

        Returns:
            The first lag whose response is at least 0.3 of the largest, in control steps (negative: the motion is
            seen before its action), and the share of the displacement's variance that the fit explains, adjusted for
            the number of fitted coefficients (0 where there are hardly more rows than coefficients).
        """
        if self._rows <= len(LAGS) + 1:
            return LAGS[0], 0.0
        covariance = self._products - np.outer(self._sum, self._sum) / self._rows
        inputs, shared, variance = covariance[:-1, :-1], covariance[:-1, -1], covariance[-1, -1]
        response = np.linalg.lstsq(inputs, shared, rcond=None)[0]
        unexplained = variance - 2 * response @ shared + response @ inputs @ response
        inner = response[1:-1]  # the outermost lags also absorb all lags beyond them
        onset = LAGS[1 + int(np.argmax(inner >= _ONSET_SHARE * inner.max()))]
        adjusted = (self._rows - 1) / (self._rows - len(LAGS) - 1)
        return onset, max(float(1 - adjusted * unexplained / max(variance, 1e-12)), 0.0)


def response_onset(actions: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> tuple[int, float]:
    """`MotionResponse.onset` of some episodes: per episode, actions (T, D) and positions (T, D)."""
    response = MotionResponse()
    for action, position in zip(actions, positions, strict=True):
        response.add(action, position)
    return response.onset()


def motion_axes(action_names: Sequence[str], state_names: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """Columns of the action that move the end effector along x, y and z, and of the state that hold its position.

    Returns:
        None unless they are named delta_x, delta_y, delta_z, and ee_x_m, ee_y_m, ee_z_m.
    """
    pairs = [(f"delta_{axis}", f"ee_{axis}_m") for axis in "xyz"]
    if not all(a in action_names and s in state_names for a, s in pairs):
        return None
    return [list(action_names).index(a) for a, _ in pairs], [list(state_names).index(s) for _, s in pairs]


@dataclass(frozen=True)
class SourceLag:
    """The declared and the measured lag of a source: by how many steps its observations lag behind its actions.

    `measured` is None where no action moves an axis of the state, so that nothing could be measured.
    """

    declared: int
    measured: int | None
    explained: float | None
    episodes: int

    def record(self) -> ActionLag:
        """The lag as info.json holds it."""
        explained = None if self.explained is None else round(self.explained, 4)
        return {
            "declared_lag": self.declared,
            "measured_lag": self.measured,
            "explained": explained,
            "episodes": self.episodes,
        }


class LagTest:
    """Measures the lag of a source while it is read, over all episodes and per task.

    Args:
        where: the source, for messages.
        declared: the lag that its format or the user declares.
        action_names, state_names: the names of the elements of its actions and states.
    """

    def __init__(self, where: str, declared: int, action_names: Sequence[str], state_names: Sequence[str]) -> None:
        self._where, self._declared = where, declared
        self._axes = motion_axes(action_names, state_names)
        self._all, self._tasks = MotionResponse(), dict[str, MotionResponse]()

    @property
    def possible(self) -> bool:
        return self._axes is not None

    def add(self, task: str, actions: np.ndarray, states: np.ndarray) -> None:
        """Add an episode as the source stores it: actions (T, A) and states (T, S)."""
        if self._axes is None:
            return
        moving, position = actions[:, self._axes[0]], states[:, self._axes[1]]
        for response in (self._all, self._tasks.setdefault(task, MotionResponse())):
            response.add(moving, position)

    def result(self) -> SourceLag:
        """The measured lag of the source.

        Raises:
            BadInput: the actions do not explain the motion, or the lag differs from the declared one: over all
                episodes, or over those of a task that has enough of them.
        """
        if self._axes is None:
            return SourceLag(self._declared, None, None, 0)
        onset, explained = self._all.onset()
        if explained < EXPLAINED:
            raise BadInput(
                self._where,
                "the lag between action and motion",
                f"actions explain {explained:.2f} of the variance of the motion, over {self._all.episodes} episodes",
                f"at least {EXPLAINED}: unexplained motion cannot prove a lag",
                "name the elements for the end effector's motion and position with --rename; if their names are "
                "right, these actions did not move this arm",
            )
        self.check()
        for task, response in self._tasks.items():
            if response.episodes >= ENOUGH:
                self._check(response, f", task {task}")
        return SourceLag(self._declared, -onset, explained, self._all.episodes)

    def check(self) -> None:
        """Raise `BadInput` where the lag over all episodes so far differs from the declared one."""
        self._check(self._all, "")

    def _check(self, response: MotionResponse, which: str) -> None:
        onset, explained = response.onset()
        if explained < EXPLAINED or -onset == self._declared:
            return
        few = f"{response.episodes} episodes are few for measuring a lag: import more of them at once; or, "
        raise BadInput(
            self._where,
            f"the lag between action and motion{which}",
            f"{-onset} measured, over {response.episodes} episodes (explained variance {explained:.2f})",
            f"{self._declared} declared",
            f"{few if response.episodes < ENOUGH else ''}if the source is correct, declare --lag {-onset}",
        )
