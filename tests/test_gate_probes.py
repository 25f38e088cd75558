"""The measurements behind the gates, on signals whose answer is known."""

from __future__ import annotations

import numpy as np

from world2act.gates.probes import readable, response_onset


def test_onset_is_where_the_motion_begins_not_where_it_peaks() -> None:
    """Against a system whose impulse response is known: it starts at lag 0 and peaks at lag 2."""
    rng = np.random.default_rng(0)
    actions = [rng.normal(size=(80, 2)).cumsum(0) * 0.1 for _ in range(6)]
    response = [0.5, 0.9, 1.0, 0.4]
    positions = []
    for action in actions:
        speed = sum(
            weight * np.vstack([np.zeros((lag, 2)), action[: len(action) - lag]]) for lag, weight in enumerate(response)
        )
        positions.append(np.vstack([np.zeros((1, 2)), speed.cumsum(0)[:-1]]))
    assert response_onset(actions, positions)[0] == 0
    assert response_onset([a[1:] for a in actions], [p[:-1] for p in positions])[0] == 1
    assert response_onset([a[:-1] for a in actions], [p[1:] for p in positions])[0] == -1


def test_readable_is_zero_for_what_cannot_be_seen() -> None:
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(size=(60, 1)), rng.normal(size=(60, 1))
    pixels = seen @ rng.normal(size=(1, 200)) + 0.1 * rng.normal(size=(60, 200))
    scores = readable(pixels, np.hstack([seen, unseen]))
    assert scores[0] > 0.95 and scores[1] < 0.2
