"""LeRobot's statistics of features. They are exact and can be streamed: several passes over chunks of rows.

LeRobot averages the quantiles of the episodes, which is not the quantile of the data. These are exact, as if all rows
were in memory, and need a few thousand counters per column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
FeatureStatistics = dict[str, list[float] | list[list[list[float]]]]
"""Statistic → its values: a list of length D for a feature (N, D), of shape (3, 1, 1) for a camera; `count`: [N]."""
_DIGITS = ((21, 11), (10, 11), (0, 10))


def array_statistics(values: np.ndarray) -> FeatureStatistics:
    """The statistics of a feature (N, D) that is in memory."""
    exact = values.astype(np.float64)
    statistics = {"min": exact.min(0), "max": exact.max(0), "mean": exact.mean(0), "std": exact.std(0)}
    statistics |= {name: np.quantile(exact, q, axis=0) for name, q in QUANTILES.items()}
    return _as_lists(statistics, len(values))


def image_statistics(histogram: np.ndarray, frames: int) -> FeatureStatistics:
    """The statistics of a camera, in [0, 1], from the int64 (3, 256) histogram of its pixels."""
    levels = np.arange(256) / 255
    counts = histogram.sum(1)
    mean = histogram @ levels / counts
    statistics = {
        "min": np.array([levels[h.nonzero()[0][0]] for h in histogram]),
        "max": np.array([levels[h.nonzero()[0][-1]] for h in histogram]),
        "mean": mean,
        "std": np.sqrt(np.maximum(histogram @ levels**2 / counts - mean**2, 0)),
    }
    for name, q in QUANTILES.items():
        statistics[name] = np.array([levels[np.searchsorted(h.cumsum(), q * h.sum())] for h in histogram])
    return _as_lists({name: value.reshape(3, 1, 1) for name, value in statistics.items()}, frames)


def streamed_statistics(chunks: Callable[[], Iterable[np.ndarray]]) -> FeatureStatistics:
    """The statistics of a feature (N, D) that is read in several passes.

    Args:
        chunks: starts a pass, which yields the rows in order: finite numbers (T, D). Quantiles are those of the
            numbers as float32.
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
    positions = np.array([(count - 1) * q for q in QUANTILES.values()])
    ranks = np.concatenate([np.floor(positions), np.ceil(positions)]).astype(np.int64)
    lower, upper = np.split(_ranked(chunks, ranks).astype(np.float64), 2)
    interpolated = lower + (upper - lower) * (positions - np.floor(positions))[:, None]
    statistics |= dict(zip(QUANTILES, interpolated, strict=True))
    return _as_lists({name: np.asarray(value) for name, value in statistics.items()}, count)


def _as_lists(statistics: dict[str, np.ndarray], count: int) -> FeatureStatistics:
    return {name: value.tolist() for name, value in statistics.items()} | {"count": [count]}


def _ranked(chunks: Callable[[], Iterable[np.ndarray]], ranks: np.ndarray) -> np.ndarray:
    """The numbers of K ranks in each column, float32 (K, D): a radix select, with one pass per digit of the key."""
    prefix, left = np.zeros((len(ranks), 1), np.int64), ranks[:, None]  # alike for all columns until the first digit
    for shift, bits in _DIGITS:
        counts = sum(_histogram(_keys(chunk), prefix, shift, bits) for chunk in chunks())
        below = np.cumsum(counts, 2)
        digit = (below <= left[..., None]).sum(2)
        before = np.where(digit > 0, np.take_along_axis(below, np.maximum(digit - 1, 0)[..., None], 2)[..., 0], 0)
        left, prefix = left - before, (prefix << bits) | digit
    return _numbers(prefix)


def _histogram(keys: np.ndarray, prefix: np.ndarray, shift: int, bits: int) -> np.ndarray:
    """How many keys (T, D) with each prefix (K, D) have each next digit: (K, D, 2**bits)."""
    columns, size = np.arange(keys.shape[1]), 2**bits
    slots = columns * size + ((keys >> shift) & (size - 1))
    prefixes = keys >> (shift + bits)
    counts = [np.bincount(slots[prefixes == row], minlength=len(columns) * size) for row in prefix]
    return np.stack(counts).reshape(len(prefix), len(columns), size)


def _keys(numbers: np.ndarray) -> np.ndarray:
    """Integers that sort as the float32 numbers do, int64 below 2**32."""
    bits = (numbers.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)  # -0 becomes 0
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits | 0x80000000)


def _numbers(keys: np.ndarray) -> np.ndarray:
    bits = np.where(keys >> 31, keys & 0x7FFFFFFF, 0xFFFFFFFF - keys)
    return bits.astype(np.uint32).view(np.float32)
