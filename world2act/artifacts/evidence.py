"""Evidence for a release: gate results, metrics and per-episode evaluations, read by the md5s of dvc.lock."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, TypedDict

from world2act.artifacts.lineage import EVALUATION, Lineage
from world2act.artifacts.objects import Cached
from world2act.core.errors import BadInput
from world2act.core.stage import METRICS
from world2act.core.storage import read_json

_SHOWN = ("table", "column", "meaning", "severity", "observed", "expected")


class GateEvidence(TypedDict):
    """The result of a gate in a manifest: `failed` has the warnings, which did not stop the pipeline."""

    success: bool
    failed: list[dict[str, object]]


class EpisodeEvidence(TypedDict):
    """An evaluated episode in a manifest; `success` is None after an infrastructure error."""

    task: str
    seed: int
    success: bool | None


def refuse_red(lineage: Lineage) -> None:
    """Raise `BadInput` if a gate of the lineage is red, or has no result, in the workspace."""
    for artifact, path in lineage.gates.items():
        result = read_json(lineage.root / path)
        if result.get("success") is not True:
            failed = [record["meaning"] for record in result["expectations"] if not record["success"]]
            raise BadInput(
                path,
                "success",
                f"red: {'; '.join(failed)}",
                "a green gate on every artifact of the lineage",
                f"open reports/data_docs/{artifact}, correct what it names and run `world2act repro`",
            )


def refuse_worse(lineage: Lineage) -> None:
    """Raise `BadInput` if the artifact is a policy that is worse than the incumbent."""
    if lineage.policy is None:
        return
    candidate = _evaluation(lineage).json("summary.json")["candidates"][lineage.policy]
    if candidate["promote"] is not True:
        raise BadInput(
            f"{EVALUATION}/summary.json",
            f"candidates.{lineage.policy}",
            candidate["reason"],
            "no worse than the incumbent beyond the interval of their difference",
            "look at its training curves and videos, change params.yaml and run `world2act repro`",
        )


def gates(lineage: Lineage) -> dict[str, GateEvidence]:
    """Artifact → the result of its gate."""
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


def metrics(lineage: Lineage) -> dict[str, object]:
    """Stage → its metrics, for the stages that have any."""
    return {
        PurePosixPath(path).parent.name: _single(lineage, path)
        for path in sorted(lineage.outs)
        if PurePosixPath(path).name == "metrics.json" and PurePosixPath(path).is_relative_to(METRICS)
    }


def record(lineage: Lineage) -> dict[str, list[EpisodeEvidence]]:
    """Policy → its episodes in the order of task and seed.

    Empty if the artifact was not compared with the incumbent.
    """
    if lineage.policy is None:
        return {}
    evaluation = _evaluation(lineage)
    episodes: dict[str, list[EpisodeEvidence]] = {}
    for path in sorted(evaluation.md5s):
        match PurePosixPath(path).parts:
            case ("episodes", policy, _):
                episode = evaluation.json(path)
                episodes.setdefault(policy, []).append(
                    {"task": episode["task"], "seed": episode["seed"], "success": episode["success"]}
                )
    return {policy: sorted(rows, key=lambda row: (row["task"], row["seed"])) for policy, rows in episodes.items()}


def _evaluation(lineage: Lineage) -> Cached:
    return Cached(lineage.outs[EVALUATION])


def _single(lineage: Lineage, path: str) -> Any:
    return Cached(lineage.outs[path]).json(PurePosixPath(path).name)
