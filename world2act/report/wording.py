"""Numbers as people read them, and the one sentence that the evaluation allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """What the paired difference of artifacts/evaluate/summary.json allows one to say, and no more.

    Returns:
        "better", "worse" or "noise", and the sentence.
    """
    pooled, confidence = summary["difference"]["pooled"], summary["confidence"]
    if pooled["count"] == 0:
        return "noise", "No pair of episodes ended without an infrastructure error: nothing can be said."
    change, low, high = (points(pooled[key]) for key in ("difference", "low", "high"))
    interval = f"{percent(confidence)} interval {low} to {high}, {pooled['count']} paired episodes"
    if pooled["low"] > 0:
        return "better", f"Post-training raised success by {change} points ({interval})."
    if pooled["high"] < 0:
        return "worse", f"Post-training changed success by {change} points, for the worse ({interval})."
    return "noise", (
        f"No difference beyond noise: {change} points ({interval}). The interval holds zero, so these episodes "
        "cannot tell the post-trained policy from the base policy."
    )


def percent(share: float) -> str:
    """42%."""
    return f"{100 * share:.0f}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed, with a true minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def seconds(value: float) -> str:
    """9.4 s, 48 s, 2:05 min."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}:{rest:02d} min"


def memory(mib: float) -> str:
    """812 MiB, 1.3 GiB."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def words(observed: Any) -> str:
    """What a gate observed: a value, or the range of a column."""
    if not isinstance(observed, dict):
        return f"{observed:.4g}" if isinstance(observed, float) else str(observed)
    low, mean, high = (
        f"{observed[key]:.4g}" if observed[key] is not None else "none" for key in ("min", "mean", "max")
    )
    return low if low == high else f"{low} to {high}, mean {mean}"
