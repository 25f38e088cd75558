"""Success rates with their intervals, and the difference of two policies from the same initial states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Rate:
    """A proportion of `count` episodes and its interval."""

    successes: int
    count: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The success rate of one policy minus that of another over `count` pairs, and its interval."""

    count: int
    difference: float
    low: float
    high: float


def wilson(successes: int, count: int, confidence: float) -> Rate:
    """Wilson's score interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927). Without episodes it is 0 to 1."""
    if count == 0:
        return Rate(0, 0, 0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    # exact ends: rounding could miss 0 and 1 slightly
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Rate(successes, count, p, low, high)


def paired_difference(first: Sequence[bool], second: Sequence[bool], confidence: float) -> Difference:
    """Success of `first` minus `second`, episode by episode on the same initial states.

    Newcombe's method 10 (R. G. Newcombe, Statistics in Medicine 17, 1998): the two Wilson intervals, squared and
    added with the correlation of the pairs. Without pairs the interval is -1 to 1.
    """
    pairs = list(zip(first, second, strict=True))
    n = len(pairs)
    if n == 0:
        return Difference(0, 0.0, -1.0, 1.0)
    both, only_first = pairs.count((True, True)), pairs.count((True, False))
    only_second, neither = pairs.count((False, True)), pairs.count((False, False))
    one, two = wilson(both + only_first, n, confidence), wilson(both + only_second, n, confidence)
    margins = one.successes * (n - one.successes) * two.successes * (n - two.successes)
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - n / 2, 0)
    correlation = product / math.sqrt(margins) if margins else 0.0
    difference = one.rate - two.rate
    low = difference - _combine(one.rate - one.low, two.high - two.rate, correlation)
    high = difference + _combine(one.high - one.rate, two.rate - two.low, correlation)
    return Difference(n, difference, max(-1.0, low), min(1.0, high))


def not_worse(candidate: Sequence[bool], incumbent: Sequence[bool], confidence: float) -> bool:
    """The promotion rule: False only if the whole interval of candidate minus incumbent is below zero."""
    return paired_difference(candidate, incumbent, confidence).high >= 0


def _combine(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))
