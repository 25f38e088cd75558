"""How a stage ended in one run of a flow."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from enum import StrEnum

from flows.dvc_run import run_dvc

GATE = "validate_"
_UNCHANGED = re.compile(r"^Stage '.*' (didn't change, skipping|is cached - skipping run)", re.MULTILINE)
_UNCHANGED_DATA = re.compile(r"^'.*\.dvc' didn't change, skipping", re.MULTILINE)
_GATE_RED = re.compile(r"\bGateFailed: ")


class Outcome(StrEnum):
    """How a stage ended; also the name of its Prefect state."""

    RAN = "Ran"
    CACHED = "Cached"
    GATE_FAILED = "Gate failed"
    FAILED = "Failed"
    NOT_RUN = "Not run"


GOOD = (Outcome.RAN, Outcome.CACHED)


@dataclass(frozen=True)
class StageRun:
    """One stage in one run of the flow; `message` holds its last lines when it failed, `where` the work pool."""

    stage: str
    outcome: Outcome
    wall_s: float = 0.0
    message: str = ""
    where: str = ""


def reproduce(stage: str) -> StageRun:
    """Let DVC run one stage if it changed. Raises `LockBusy` if another DVC process holds a lock that it needs."""
    started = time.monotonic()
    code, text = run_dvc(stage, "repro", "--single-item", stage)
    wall_s = time.monotonic() - started
    if code == 0:
        unchanged = _UNCHANGED.search(text) or _UNCHANGED_DATA.search(text)
        return StageRun(stage, Outcome.CACHED if unchanged else Outcome.RAN, wall_s)
    return StageRun(stage, Outcome.GATE_FAILED if _GATE_RED.search(text) else Outcome.FAILED, wall_s, text)
