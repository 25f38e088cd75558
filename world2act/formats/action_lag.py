"""Whether actions and observations belong together in time: episodes' actions and positions in, the lag out.

A source may store its observations before the action of the same row (lag 0) or after it (lag 1, as LIBERO does).
Nobody's word is taken for it: the end effector's motion says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world2act.core.errors import BadInput

LAGS = range(-4, 9)
EXPLAINED = 0.5
"""The least share of the motion's variance that actions must explain before a lag read off it proves anything."""
ENOUGH = 20
"""Episodes of a task that are enough to judge it alone: of 480 draws of 20 episodes of a Meta-World task none was
misjudged, of 10 three, of 5 eight."""
_ONSET_SHARE = 0.3


class MotionResponse:
    """The response of motion to action, fitted over episodes one by one: its memory does not grow with them.

    A plain correlation has its peak where the arm's inertia puts it. The impulse response, fitted by least squares
    of displacement on the actions before *and after* it, is zero until the cause and then jumps.
    """

    def __init__(self) -> None:
        self.episodes = 0
        self._rows = 0
        self._sum = np.zeros(len(LAGS) + 1)
        self._products = np.zeros((len(LAGS) + 1, len(LAGS) + 1))

    def add(self, actions: np.ndarray, positions: np.ndarray) -> None:
        """Add an episode: actions (T, D), and the positions (T, D) that they move, row t stored beside action t."""
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
            how many numbers were fitted (0 where there are hardly more rows than these).
        """
        if self._rows <= len(LAGS) + 1:
            return LAGS[0], 0.0
        covariance = self._products - np.outer(self._sum, self._sum) / self._rows
        inputs, shared, variance = covariance[:-1, :-1], covariance[:-1, -1], covariance[-1, -1]
        response = np.linalg.lstsq(inputs, shared, rcond=None)[0]
        unexplained = variance - 2 * response @ shared + response @ inputs @ response
        inner = response[1:-1]  # the outermost lags also stand for all those beyond them
        onset = LAGS[1 + int(np.argmax(inner >= _ONSET_SHARE * inner.max()))]
        adjusted = (self._rows - 1) / (self._rows - len(LAGS) - 1)
        return onset, max(float(1 - adjusted * unexplained / max(variance, 1e-12)), 0.0)


def response_onset(actions: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> tuple[int, float]:
    """`MotionResponse.onset` of some episodes: actions and positions, (T, D) each."""
    response = MotionResponse()
    for action, position in zip(actions, positions, strict=True):
        response.add(action, position)
    return response.onset()


def motion_axes(action_names: Sequence[str], state_names: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """Columns of the action that move the end effector along x, y and z, and of the state that hold its position.

    Returns:
        None where the names do not say so: delta_x, delta_y, delta_z, and ee_x_m, ee_y_m, ee_z_m.
    """
    pairs = [(f"delta_{axis}", f"ee_{axis}_m") for axis in "xyz"]
    if not all(a in action_names and s in state_names for a, s in pairs):
        return None
    return [list(action_names).index(a) for a, _ in pairs], [list(state_names).index(s) for _, s in pairs]


@dataclass(frozen=True)
class SourceLag:
    """What was measured of a source: by how many steps its observations lag behind its actions.

    `measured` is None where no action moves an axis of the state, so that nothing could be measured.
    """

    declared: int
    measured: int | None
    explained: float | None
    episodes: int

    def record(self) -> dict[str, int | float | None]:
        """As info.json keeps it."""
        explained = None if self.explained is None else round(self.explained, 4)
        return {
            "declared_lag": self.declared,
            "measured_lag": self.measured,
            "explained": explained,
            "episodes": self.episodes,
        }


class LagTest:
    """Measures the lag of a source while it is read, over all of it and a task each.

    Args:
        where: the source, for messages.
        declared: what its format or the user says.
        action_names, state_names: of the elements of its actions and states.
    """

    def __init__(self, where: str, declared: int, action_names: Sequence[str], state_names: Sequence[str]) -> None:
        self._where, self._declared = where, declared
        self._axes = motion_axes(action_names, state_names)
        self._all, self._tasks = MotionResponse(), dict[str, MotionResponse]()

    @property
    def possible(self) -> bool:
        return self._axes is not None

    def add(self, task: str, actions: np.ndarray, states: np.ndarray) -> None:
        """Add an episode of the source as it is stored, actions (T, A) and states (T, S)."""
        if self._axes is None:
            return
        moving, position = actions[:, self._axes[0]], states[:, self._axes[1]]
        for response in (self._all, self._tasks.setdefault(task, MotionResponse())):
            response.add(moving, position)

    def result(self) -> SourceLag:
        """The lag that the source has been measured to have.

        Raises:
            BadInput: motion does not follow from the actions, or the lag is not the declared one, of all episodes or
                of those of one task, if there are enough of them.
        """
        if self._axes is None:
            return SourceLag(self._declared, None, None, 0)
        onset, explained = self._all.onset()
        if explained < EXPLAINED:
            raise BadInput(
                self._where,
                "the lag between action and motion",
                f"actions explain {explained:.2f} of the variance of the motion, over {self._all.episodes} episodes",
                f"at least {EXPLAINED}: what cannot be explained cannot prove a lag",
                "name the elements that hold the end effector's motion and position with --rename; if they are named "
                "right, these actions are not what moved this arm",
            )
        self.check()
        for task, response in self._tasks.items():
            if response.episodes >= ENOUGH:
                self._check(response, f", task {task}")
        return SourceLag(self._declared, -onset, explained, self._all.episodes)

    def check(self) -> None:
        """Refuse a lag of all episodes so far that is another one than declared. Raises `BadInput`."""
        self._check(self._all, "")

    def _check(self, response: MotionResponse, which: str) -> None:
        onset, explained = response.onset()
        if explained < EXPLAINED or -onset == self._declared:
            return
        few = f"{response.episodes} episodes are few to measure a lag with: import more of them at once; or, "
        raise BadInput(
            self._where,
            f"the lag between action and motion{which}",
            f"{-onset} measured, over {response.episodes} episodes (explained variance {explained:.2f})",
            f"{self._declared} declared",
            f"{few if response.episodes < ENOUGH else ''}if the source is as it should be, declare --lag {-onset}",
        )
