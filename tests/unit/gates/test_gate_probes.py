"""The measurements behind the gates, on signals whose answer is known."""

from __future__ import annotations

import numpy as np

from world2act.gates.engine.measurements import readable


def test_readable_is_zero_for_what_cannot_be_seen() -> None:
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(size=(60, 1)), rng.normal(size=(60, 1))
    pixels = seen @ rng.normal(size=(1, 200)) + 0.1 * rng.normal(size=(60, 200))
    scores = readable(pixels, np.hstack([seen, unseen]))
    assert scores[0] > 0.95 and scores[1] < 0.2
