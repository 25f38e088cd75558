"""The lag between action and motion, on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from world2act.core.errors import BadInput
from world2act.formats.action_lag import ENOUGH, LagTest, motion_axes, response_onset

ACTIONS, STATES = ["delta_x", "delta_y", "delta_z"], ["ee_x_m", "ee_y_m", "ee_z_m"]


def moving(episodes: int, length: int = 80) -> list[tuple[np.ndarray, np.ndarray]]:
    """Actions, and the positions of an arm whose impulse response starts at lag 0 and peaks at lag 2."""
    rng, made = np.random.default_rng(0), []
    for _ in range(episodes):
        action = rng.normal(size=(length, 3)).cumsum(0) * 0.1
        speed = sum(
            weight * np.vstack([np.zeros((lag, 3)), action[: length - lag]])
            for lag, weight in enumerate([0.5, 0.9, 1.0, 0.4])
        )
        made.append((action, np.vstack([np.zeros((1, 3)), speed.cumsum(0)[:-1]])))
    return made


def test_onset_is_where_the_motion_begins_not_where_it_peaks() -> None:
    actions, positions = zip(*moving(6), strict=True)
    assert response_onset(actions, positions)[0] == 0
    assert response_onset([a[1:] for a in actions], [p[:-1] for p in positions])[0] == 1
    assert response_onset([a[:-1] for a in actions], [p[1:] for p in positions])[0] == -1


def lagged(declared: int, lag: int, tasks: int = 1) -> LagTest:
    """Episodes whose observations are stored `lag` steps late."""
    test = LagTest("a source", declared, ACTIONS, STATES)
    for i, (action, position) in enumerate(moving(6)):
        test.add(f"task{i % tasks}", action[: len(action) - lag], position[lag:])
    return test


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_declared_lag_is_proved_or_refused(lag: int) -> None:
    result = lagged(lag, lag, tasks=2).result()
    assert result.measured == result.declared == lag and result.explained > 0.99 and result.episodes == 6
    with pytest.raises(BadInput, match=rf"{lag} measured.*variance.*\n.*{lag + 1} declared(.|\n)*--lag {lag}"):
        lagged(lag + 1, lag).result()


def test_one_task_that_lags_is_named() -> None:
    test = lagged(0, 0)
    for _ in range(5):
        for action, position in moving(6):
            test.add("good", action, position)
    for action, position in moving(ENOUGH, 30):
        test.add("late", action[:-1], position[1:])
    test.check()
    with pytest.raises(BadInput, match="task late"):
        test.result()


def test_motion_that_no_action_explains_proves_nothing() -> None:
    test, rng = LagTest("a source", 0, ACTIONS, STATES), np.random.default_rng(1)
    for action, position in moving(20):
        test.add("task", rng.normal(size=action.shape), position)
    with pytest.raises(BadInput, match=r"explain 0\.\d+ of the variance"):
        test.result()


def test_without_comparable_axes_nothing_is_claimed() -> None:
    assert motion_axes(["joint_0"], STATES) is None
    assert motion_axes([*ACTIONS, "gripper"], ["gripper_opening_m", *STATES]) == ([0, 1, 2], [1, 2, 3])
    test = LagTest("a source", 3, ["joint_0"], STATES)
    test.add("task", np.zeros((9, 1)), np.zeros((9, 3)))
    assert not test.possible
    assert test.result().record() == {"declared_lag": 3, "measured_lag": None, "explained": None, "episodes": 0}
