"""Which gate stands behind which artifact."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.gates.engine import Table, run_gate

ARTIFACTS = (
    "demos",
    "skills",
    "tokenizer",
    "latents",
    "world_model",
    "rollouts",
    "base_policy",
    "bridge",
    "post_train",
    "evaluate",
)


def validate(artifact: str, root: Path, params: Params) -> dict[str, int]:
    """Run the gate of `root/artifact`; see `world2act.gates.engine.run_gate`.

    Raises:
        GateFailed: an expectation failed.
        BadInput: there is no such gate, or the artifact is missing or damaged.
    """
    if artifact not in ARTIFACTS:
        raise BadInput(
            "stages.validate", "", artifact, f"one of {', '.join(ARTIFACTS)}", "name the artifact to validate"
        )
    tables: Callable[[Path, Params], list[Table]] = import_module(f"world2act.gates.{artifact}").tables
    return run_gate(artifact, tables(root, params))
