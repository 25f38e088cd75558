"""What speaks for a release: gate results, metrics and per-episode evaluations, read by the md5s of dvc.lock."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from world2act.artifacts.lineage import EVALUATION, Lineage
from world2act.artifacts.objects import Cached
from world2act.core.errors import BadInput
from world2act.core.stage import METRICS
from world2act.core.storage import read_json

_SHOWN = ("table", "column", "meaning", "severity", "observed", "expected")


def refuse_red(lineage: Lineage) -> None:
    """Raise `BadInput` when a gate of the lineage is red, or has no result, in the workspace."""
    for artifact, path in lineage.gates.items():
        result = read_json(lineage.root / path)
        if result.get("success") is not True:
            failed = [record["meaning"] for record in result["expectations"] if not record["success"]]
            raise BadInput(
                path,
                "success",
                f"red: {'; '.join(failed)}",
                "a green gate on every artifact of the lineage",
                f"open reports/data_docs/{artifact}, mend what it names and run `world2act repro`",
            )


def refuse_worse(lineage: Lineage) -> None:
    """Raise `BadInput` when the artifact is a policy that was compared with the incumbent and found to be worse."""
    if lineage.policy is None:
        return
    candidate = _evaluation(lineage).json("summary.json")["candidates"][lineage.policy]
    if candidate["promote"] is not True:
        raise BadInput(
            f"{EVALUATION}/summary.json",
            f"candidates.{lineage.policy}",
            candidate["reason"],
            "no worse than the incumbent beyond the interval of their difference",
            "it is not published: look at its training curves and the videos, change params.yaml and run again",
        )


def gates(lineage: Lineage) -> dict[str, Any]:
    """Artifact → success, and the expectations that failed without stopping the line (warnings)."""
    results = {artifact: _single(lineage, path) for artifact, path in lineage.gates.items()}
    return {
        artifact: {
            "success": result["success"],
            "failed": [
                {key: record.get(key) for key in _SHOWN} for record in result["expectations"] if not record["success"]
            ],
        }
        for artifact, result in results.items()
    }


def metrics(lineage: Lineage) -> dict[str, Any]:
    """Stage → its metrics, for the stages that measure something."""
    return {
        PurePosixPath(path).parent.name: _single(lineage, path)
        for path in sorted(lineage.outs)
        if PurePosixPath(path).name == "metrics.json" and PurePosixPath(path).is_relative_to(METRICS)
    }


def record(lineage: Lineage) -> dict[str, list[dict[str, Any]]]:
    """Policy → its episodes (task, seed, success; None after an infrastructure error).

    Empty for an artifact that was not compared with the incumbent.
    """
    if lineage.policy is None:
        return {}
    evaluation = _evaluation(lineage)
    episodes: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(evaluation.md5s):
        match PurePosixPath(path).parts:
            case ("episodes", policy, _):
                episode = evaluation.json(path)
                episodes.setdefault(policy, []).append({key: episode[key] for key in ("task", "seed", "success")})
    return {policy: sorted(rows, key=lambda row: (row["task"], row["seed"])) for policy, rows in episodes.items()}


def _evaluation(lineage: Lineage) -> Cached:
    return Cached(lineage.outs[EVALUATION])


def _single(lineage: Lineage, path: str) -> Any:
    return Cached(lineage.outs[path]).json(PurePosixPath(path).name)
