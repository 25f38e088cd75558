"""The rows of artifacts/base_policy/check.parquet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckRow:
    """One check episode. `success` is None and `error` not empty where the infrastructure failed."""

    policy: str
    task: str
    seed: int
    success: bool | None
    steps: int
    error: str
