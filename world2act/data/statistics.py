"""LeRobot's statistics of a feature, exact, over any number of rows: passes over chunks in, numbers out.

LeRobot's own aggregation averages the quantiles of the episodes, which is not the quantile of the data. These are
exact, as if all rows were in memory, and hold a few thousand counters a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from world2act.data.episodes import QUANTILES

_DIGITS = ((21, 11), (10, 11), (0, 10))


def streamed_statistics(chunks: Callable[[], Iterable[np.ndarray]]) -> dict[str, list]:
    """The statistics of a feature (N, D), read in several passes: lists of length D, and the count.

    Args:
        chunks: starts a pass: yields the rows in order, finite numbers (T, D). Quantiles are those of the numbers
            as float32.
    """
    count, mean, moment = 0, 0.0, 0.0
    low, high = np.inf, -np.inf
    for chunk in chunks():
        exact = chunk.astype(np.float64)
        rows, center = len(exact), exact.mean(0)
        shift = center - mean
        moment = moment + ((exact - center) ** 2).sum(0) + shift**2 * (count * rows / (count + rows))
        count += rows
        mean = mean + shift * (rows / count)
        low, high = np.minimum(low, exact.min(0)), np.maximum(high, exact.max(0))
    statistics = {"min": low, "max": high, "mean": mean, "std": np.sqrt(moment / count)}
    places = np.array([(count - 1) * q for q in QUANTILES.values()])
    ranks = np.concatenate([np.floor(places), np.ceil(places)]).astype(np.int64)
    lower, upper = np.split(_ranked(chunks, ranks).astype(np.float64), 2)
    between = lower + (upper - lower) * (places - np.floor(places))[:, None]
    statistics |= dict(zip(QUANTILES, between, strict=True))
    return {name: np.asarray(value).tolist() for name, value in statistics.items()} | {"count": [count]}


def _ranked(chunks: Callable[[], Iterable[np.ndarray]], ranks: np.ndarray) -> np.ndarray:
    """The numbers of K ranks of each column, float32 (K, D): a radix select, one pass for each digit of the key."""
    prefix, left = None, None
    for shift, bits in _DIGITS:
        counts: np.ndarray | int = 0
        for chunk in chunks():
            keys = _keys(chunk)
            if prefix is None:
                prefix = np.zeros((len(ranks), keys.shape[1]), np.int64)
                left = np.repeat(ranks[:, None], keys.shape[1], 1)
            counts = counts + _histogram(keys, prefix, shift, bits)
        below = np.cumsum(counts, 2)
        digit = (below <= left[..., None]).sum(2)
        before = np.where(digit > 0, np.take_along_axis(below, np.maximum(digit - 1, 0)[..., None], 2)[..., 0], 0)
        left, prefix = left - before, (prefix << bits) | digit
    return _numbers(prefix)


def _histogram(keys: np.ndarray, prefix: np.ndarray, shift: int, bits: int) -> np.ndarray:
    """Of the keys (T, D) that begin as each prefix (K, D) does, how many have each next digit: (K, D, 2**bits)."""
    columns, size = np.arange(keys.shape[1]), 2**bits
    slots = columns * size + ((keys >> shift) & (size - 1))
    begins = keys >> (shift + bits)
    counts = [np.bincount(slots[begins == row], minlength=len(columns) * size) for row in prefix]
    return np.stack(counts).reshape(len(prefix), len(columns), size)


def _keys(numbers: np.ndarray) -> np.ndarray:
    """Integers that sort as the float32 numbers do, int64 below 2**32."""
    bits = (numbers.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)  # -0 becomes 0
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits | 0x80000000)


def _numbers(keys: np.ndarray) -> np.ndarray:
    bits = np.where(keys >> 31, keys & 0x7FFFFFFF, 0xFFFFFFFF - keys)
    return bits.astype(np.uint32).view(np.float32)
