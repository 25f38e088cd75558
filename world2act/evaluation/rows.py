"""The rows of artifacts/base_policy/check.parquet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckRow:
    """One check episode. If the infrastructure failed, `success` is None and `error` is not empty."""

    policy: str
    task: str
    seed: int
    success: bool | None
    steps: int
    error: str
