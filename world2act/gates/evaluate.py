"""The gate of artifacts/evaluate: measures episodes, summary and videos."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from world2act.core.errors import BadInput
from world2act.core.params import Evaluate, Params
from world2act.core.params.evaluation import RANDOM
from world2act.core.stage import ARTIFACTS
from world2act.core.storage import read_json, sha256
from world2act.core.tables import read_rows
from world2act.data.initial_states import InitialStateRow
from world2act.evaluation.summary import Summary
from world2act.gates.engine.measurements import is_finite
from world2act.gates.engine.tables import Provenance, Table, provenance_table
from world2act.gates.engine.vocabulary import Check, at_least, at_most, equal, greater, one_of, rebuild

_REBUILD = rebuild("evaluate")
_READ_ERRORS = (
    "read `error` of the episodes: a simulator or its process failed; run the stage again, with fewer base.workers if "
    "memory ran out"
)
_POLICY_KEYS = ("policy", "chunk_length")  # of an episode's record, what belongs to the policy itself

_OUTCOME = (
    "An episode succeeded, failed, or had an infrastructure error, which is never counted as a failure of the policy."
)
_ACTION_BOX = "The recorded actions are finite and in [-1, 1], the box of the environment."
_ONE_PROTOCOL = "All policies were evaluated in the same way, except for what belongs to the policy itself."
_TEST_SCENES = "Only test scenes were used: none that anything was trained on."
_PAIRED = "Every policy was run from every test scene (shown: the policies that were not)."
_COUNTED_AGAIN = "The success rates in summary.json are those of the episodes, counted again."
_NO_WORSE = (
    "The candidate is no worse than the incumbent beyond the interval of the difference of their success (its upper "
    "end)."
)
_NOT_PROMOTED = "the candidate will not be promoted: look at the curves of its training and at the videos"


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/evaluate. Raises `BadInput` when a file is missing or damaged."""
    root, limits = artifacts / "evaluate", params.gates.evaluate
    episodes = [read_json(path) | {"policy": path.parent.name} for path in sorted((root / "episodes").glob("*/*.json"))]
    if not episodes:
        raise BadInput(root / "episodes", "", "no episode", "one JSON file per episode", _REBUILD)
    section, summary = params.evaluate, Summary.read(root / "summary.json")
    policy_checks = [
        at_most(
            "error_share",
            limits.error_share,
            "Almost no episode ended in an infrastructure error (share).",
            remedy=_READ_ERRORS,
        ),
        one_of("protocols", [1], _ONE_PROTOCOL, remedy=_REBUILD),
    ]
    scene_checks = [
        one_of("set", ["test"], _TEST_SCENES, remedy=_REBUILD),
        one_of("missing", [""], _PAIRED, remedy=_REBUILD),
    ]
    rates, videos = pd.DataFrame(_rate_rows(episodes, summary)), pd.DataFrame(_video_rows(root, section))
    return [
        _episodes_table(episodes, params.evaluate.max_steps),
        Table("policies", pd.DataFrame(_policy_rows(episodes)), ("policy", "episodes"), policy_checks),
        Table("scenes", pd.DataFrame(_scene_rows(artifacts, episodes, section)), ("task", "seed"), scene_checks),
        Table("rates", rates, ("policy", "task"), [equal("recorded", "found", _COUNTED_AGAIN, remedy=_REBUILD)]),
        Table("videos", videos, ("policy",), [_has_videos()]),
        Table("candidates", pd.DataFrame(_candidate_rows(summary)), ("policy", "pairs"), [_not_worse()]),
        Table("incumbent", pd.DataFrame([_incumbent_row(summary)]), ("policy",), _incumbent_checks()),
        provenance_table(_provenance_rows(artifacts, episodes, section), _REBUILD),
    ]


def _has_videos() -> Check:
    return at_least(
        "videos",
        1,
        "There are videos of every policy of the set.",
        remedy="raise evaluate.videos_per_task",
    )


def _episodes_table(episodes: list[dict[str, Any]], max_steps: int) -> Table:
    outcomes = ["success", "failure", "infrastructure error"]
    checks = [
        one_of("outcome", outcomes, _OUTCOME, remedy=_REBUILD),
        at_most("largest_action", 1, _ACTION_BOX, remedy=_REBUILD),
        at_most("steps", max_steps, "No episode was longer than allowed (control steps).", remedy=_REBUILD),
        equal("steps", "actions", "The action of every step is recorded.", remedy=_REBUILD),
    ]
    return Table("episodes", pd.DataFrame(map(_episode_row, episodes)), ("policy", "task", "seed"), checks)


def _not_worse() -> Check:
    return at_least("difference_high", 0, _NO_WORSE, remedy=_NOT_PROMOTED, severity="warning")


def _incumbent_checks() -> list[Check]:
    """Whether the evaluation can show an improvement; none of it stops the pipeline."""
    return [
        greater(
            "incumbent",
            "random",
            "The incumbent succeeds more often than a random policy on the test scenes.",
            remedy="train the incumbent for longer: raise base_policy.training.steps",
            severity="warning",
        ),
        at_most(
            "incumbent",
            0.95,
            "The incumbent leaves room for improvement (success rate).",
            remedy="choose harder tasks, or fewer demonstrations",
            severity="warning",
        ),
    ]


def _episode_row(episode: dict[str, Any]) -> dict[str, Any]:
    actions = np.array(episode["actions"], np.float64)
    outcomes = {(True, False): "success", (False, False): "failure", (None, True): "infrastructure error"}
    return {
        **{key: episode[key] for key in ("policy", "task", "seed", "steps")},
        "actions": len(actions),
        "outcome": outcomes.get(
            (episode["success"], bool(episode["error"])),
            f"success {episode['success']} with error {episode['error']!r}",
        ),
        "largest_action": float(np.abs(actions).max(initial=0.0)) if is_finite(actions) else np.inf,
    }


def _policy_rows(episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`protocols` counts the protocols seen in the whole evaluation, as each policy's row sees it."""
    protocols, results = set(), defaultdict(list)
    for episode in episodes:
        results[episode["policy"]].append(bool(episode["error"]))
        protocols.add(
            json.dumps(
                {key: value for key, value in episode["protocol"].items() if key not in _POLICY_KEYS}, sort_keys=True
            )
        )
    return [
        {
            "policy": policy,
            "episodes": len(errors),
            "error_share": sum(errors) / len(errors),
            "protocols": len(protocols),
        }
        for policy, errors in results.items()
    ]


def _scene_rows(artifacts: Path, episodes: list[dict[str, Any]], section: Evaluate) -> list[dict[str, Any]]:
    states = read_rows(artifacts / "demos/initial_states.parquet", InitialStateRow)
    sets = {(state.task, state.seed): state.set for state in states}
    seen = defaultdict(set)
    for episode in episodes:
        seen[episode["task"], episode["seed"]].add(episode["policy"])
    policies = {*section.policies, *(episode["policy"] for episode in episodes)}
    wanted = [scene for scene, name in sets.items() if name == "test"]
    return [
        {
            "task": scene[0],
            "seed": scene[1],
            "set": sets.get(scene, "none"),
            "missing": ", ".join(sorted(policies - seen[scene])),
        }
        for scene in dict.fromkeys([*wanted, *seen])
    ]


def _rate_rows(episodes: list[dict[str, Any]], summary: Summary) -> list[dict[str, str]]:
    rows = []
    for policy, success in summary.policies.items():
        for task, rate in [("all", success.pooled), *success.tasks.items()]:
            counted = [
                e["success"]
                for e in episodes
                if e["policy"] == policy and task in ("all", e["task"]) and e["success"] is not None
            ]
            rows.append(
                {
                    "policy": policy,
                    "task": task,
                    "recorded": f"{rate.successes} of {rate.count}",
                    "found": f"{sum(counted)} of {len(counted)}",
                }
            )
    return rows


def _video_rows(root: Path, section: Evaluate) -> list[dict[str, str | int]]:
    files = [path for path in root.glob("videos/*.mp4") if path.stat().st_size > 0]
    return [
        {"policy": policy, "videos": sum(path.name.startswith(f"{policy}-") for path in files)}
        for policy in section.policies
    ]


def _candidate_rows(summary: Summary) -> list[dict[str, str | int | float]]:
    return [
        {
            "policy": name,
            "pairs": candidate.pooled.count,
            "difference": candidate.pooled.difference,
            "difference_high": candidate.pooled.high,
        }
        for name, candidate in summary.candidates.items()
    ]


def _incumbent_row(summary: Summary) -> dict[str, str | float]:
    rates = {name: summary.policies[name].pooled.rate for name in (summary.incumbent, RANDOM)}
    return {"policy": summary.incumbent, "incumbent": rates[summary.incumbent], "random": rates[RANDOM]}


def _provenance_rows(artifacts: Path, episodes: list[dict[str, Any]], section: Evaluate) -> list[Provenance]:
    saved = [e for e in episodes if e["policy"] in section.policies]
    recorded = {(e["policy"], e["protocol"]["policy"].get("sha256", "none")) for e in saved}
    return [
        Provenance(policy, digest, sha256(_folder(artifacts, section.policies[policy])))
        for policy, digest in sorted(recorded)
    ]


def _folder(artifacts: Path, policy: str) -> Path:
    """The folder of a saved policy, which is one of the artifacts or is elsewhere."""
    path = Path(policy)
    return artifacts / path.relative_to(ARTIFACTS) if path.is_relative_to(ARTIFACTS) else artifacts.parent / path
