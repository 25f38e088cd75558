"""Runs one gate: measures an artifact and judges what was measured."""

from __future__ import annotations

from pathlib import Path

from world2act.core.params import Params
from world2act.gates.engine.judge import run_gate
from world2act.gates.engine.registry import find_gate


def validate(artifact: str, artifacts: Path, params: Params) -> dict[str, int]:
    """Run the gate of `artifacts/<artifact>`; see `world2act.gates.engine.judge.run_gate`.

    Raises:
        GateFailed: a critical check failed.
        BadInput: there is no such gate, or the artifact is missing or damaged.
    """
    return run_gate(artifact, find_gate(artifact).tables(artifacts, params))
