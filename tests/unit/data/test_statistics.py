import math

import numpy as np
import pytest

from world2act.evaluation.statistics import not_worse, paired_difference, wilson


def test_wilson_agrees_with_the_roots_of_the_score_equation() -> None:
    z = 1.959963984540054
    for successes, count in [(1, 10), (7, 15), (30, 60), (59, 60)]:
        rate = wilson(successes, count, 0.95)
        p = successes / count
        # an end of the interval is a true rate whose score statistic is exactly z
        for end in (rate.low, rate.high):
            assert abs(p - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(z, rel=1e-9)
        assert rate.low < p < rate.high


def test_wilson_at_the_ends_and_without_episodes() -> None:
    assert wilson(0, 20, 0.95).low == 0.0
    assert wilson(20, 20, 0.95).high == 1.0
    assert 0.8 < wilson(20, 20, 0.95).low < 1.0
    empty = wilson(0, 0, 0.95)
    assert (empty.low, empty.high) == (0.0, 1.0)


def test_paired_difference_covers_the_truth_at_its_confidence() -> None:
    generator = np.random.default_rng(0)
    cells = np.array([0.35, 0.2, 0.1, 0.35])  # both, only first, only second, neither
    truth = cells[1] - cells[2]
    covered = 0
    trials = 2000
    for counts in generator.multinomial(60, cells, trials):
        both, one, two, neither = counts
        first = [True] * both + [True] * one + [False] * (two + neither)
        second = [True] * both + [False] * one + [True] * two + [False] * neither
        interval = paired_difference(first, second, 0.9)
        covered += interval.low <= truth <= interval.high
    assert 0.87 < covered / trials < 0.95


def test_pairing_narrows_the_interval_when_the_policies_agree() -> None:
    first = [True] * 30 + [False] * 30
    agreeing = paired_difference(first, [True] * 28 + [False] * 32, 0.95)
    opposed = paired_difference(first, [False] * 32 + [True] * 28, 0.95)
    assert agreeing.high - agreeing.low < 0.6 * (opposed.high - opposed.low)
    assert paired_difference([], [], 0.95).low == -1.0


def test_difference_changes_sign_with_the_order() -> None:
    first, second = [True, True, False, True, False], [False, True, False, False, False]
    one, two = paired_difference(first, second, 0.95), paired_difference(second, first, 0.95)
    assert (one.difference, one.low, one.high) == pytest.approx((-two.difference, -two.high, -two.low))


def test_promotion_refuses_only_what_is_worse_beyond_the_interval() -> None:
    incumbent = [True] * 30 + [False] * 30
    assert not_worse([True] * 27 + [False] * 33, incumbent, 0.95)
    assert not_worse([True] * 60, incumbent, 0.95)
    assert not not_worse([True] * 10 + [False] * 50, incumbent, 0.95)
