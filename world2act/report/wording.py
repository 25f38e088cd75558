"""Numbers as people read them, and the one sentence that the evaluation supports."""

from __future__ import annotations

from world2act.evaluation.summary import Summary


def verdict(summary: Summary, candidate: str) -> tuple[str, str]:
    """The conclusion that the paired difference of a candidate and the incumbent supports, and no more.

    Returns:
        "better", "worse" or "noise", and the sentence.
    """
    pooled, names = summary.candidates[candidate].pooled, f"{label(candidate)} and {label(summary.incumbent)}"
    if pooled.count == 0:
        return "noise", f"No pair of episodes of {names} ended without an infrastructure error: nothing can be said."
    change, low, high = (points(value) for value in (pooled.difference, pooled.low, pooled.high))
    interval = f"{percent(summary.confidence)} interval {low} to {high}, {pooled.count} paired episodes"
    over = f"{label(candidate)} over {label(summary.incumbent)}"
    if pooled.low > 0:
        return "better", f"Success rose by {change} points, {over} ({interval})."
    if pooled.high < 0:
        return "worse", f"Success changed by {change} points, {over}, for the worse ({interval})."
    return "noise", (
        f"No difference beyond noise: {change} points, {over} ({interval}). The interval contains zero, so these "
        f"episodes cannot tell {names} apart."
    )


def label(policy: str) -> str:
    """A policy of the evaluation as people read it: "post_train" → "post train"."""
    return policy.replace("_", " ")


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


def words(observed: object) -> str:
    """What a gate observed: a value, or the range of a column."""
    if not isinstance(observed, dict):
        return f"{observed:.4g}" if isinstance(observed, float) else str(observed)
    low, mean, high = (
        f"{observed[key]:.4g}" if observed[key] is not None else "none" for key in ("min", "mean", "max")
    )
    return low if low == high else f"{low} to {high}, mean {mean}"
