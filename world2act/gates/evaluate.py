"""The gate of artifacts/evaluate: episodes, summary and videos in, tables with expectations out."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet, sha256
from world2act.gates.engine import Table, provenance_table, why
from world2act.gates.probes import is_finite

_AGAIN = "delete artifacts/evaluate and run `dvc repro evaluate`"
_INFRASTRUCTURE = (
    "read the episodes' `error`: a simulator or its process failed; run the stage again, with fewer base.workers if "
    "memory ran out"
)
_SAVED = {"base": "base_policy", "post_train": "post_train"}
_OWN = ("policy", "chunk_length")


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/evaluate. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "evaluate"
    episodes = [read_json(path) | {"policy": path.parent.name} for path in sorted((root / "episodes").glob("*/*.json"))]
    if not episodes:
        raise BadInput(root / "episodes", "", "no episode", "one JSON an episode", _AGAIN)
    summary = read_json(root / "summary.json")
    return [
        Table(
            "episodes",
            pd.DataFrame(map(_episode_row, episodes)),
            ("policy", "task", "seed"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="outcome",
                    value_set=["success", "failure", "infrastructure error"],
                    **why(
                        "An episode succeeded, failed, or had an infrastructure error, which is never counted as a "
                        "failure of the policy.",
                        _AGAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="largest_action",
                    max_value=1,
                    **why("The actions logged are finite and lie in [-1, 1], the box of the environment.", _AGAIN),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="steps",
                    max_value=params.evaluate.max_steps,
                    **why("No episode ran longer than allowed (control steps).", _AGAIN),
                ),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="steps", column_B="actions", **why("Every step has its action on record.", _AGAIN)
                ),
            ],
        ),
        Table(
            "policies",
            pd.DataFrame(_policy_rows(episodes)),
            ("policy", "episodes"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="error_share",
                    max_value=params.gates.evaluate.error_share,
                    **why("Next to no episode ended in an infrastructure error (share).", _INFRASTRUCTURE),
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="protocols",
                    value_set=[1],
                    **why(
                        "All policies were evaluated under one protocol, but for what belongs to the policy itself.",
                        _AGAIN,
                    ),
                ),
            ],
        ),
        Table(
            "scenes",
            pd.DataFrame(_scene_rows(artifacts, episodes)),
            ("task", "seed"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="set",
                    value_set=["test"],
                    **why("Only test scenes were used: none that anything was trained on.", _AGAIN),
                ),
                gxe.ExpectColumnValuesToBeInSet(
                    column="missing",
                    value_set=[""],
                    **why("Paired: every policy was run from every test scene (the policies that were not).", _AGAIN),
                ),
            ],
        ),
        Table(
            "rates",
            pd.DataFrame(_rate_rows(episodes, summary)),
            ("policy", "task"),
            [
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="recorded",
                    column_B="found",
                    **why("The success rates in summary.json are those of the episodes, counted again.", _AGAIN),
                ),
            ],
        ),
        Table(
            "videos",
            pd.DataFrame(_video_rows(root)),
            ("policy",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="videos",
                    min_value=1,
                    **why(
                        "There are videos of the base and of the post-trained policy.", "raise evaluate.videos_per_task"
                    ),
                ),
            ],
        ),
        Table(
            "judgement",
            pd.DataFrame([_judgement(summary)]),
            ("pairs",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="difference_high",
                    min_value=0,
                    severity="warning",
                    **why(
                        "The post-trained policy is no worse than the base policy beyond the interval of their "
                        "difference (its upper end).",
                        "it will not be promoted: look at the cosine in metrics/post_train and at the videos",
                    ),
                ),
                gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A="base",
                    column_B="random",
                    severity="warning",
                    **why(
                        "The base policy succeeds more often than a random one on the test scenes.",
                        "raise base_policy.training.steps",
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="base",
                    max_value=0.95,
                    severity="warning",
                    **why(
                        "The base policy leaves room for post-training to show (success rate).",
                        "choose harder tasks, or fewer demonstrations",
                    ),
                ),
            ],
        ),
        provenance_table(_provenance_rows(artifacts, episodes), _AGAIN),
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
            json.dumps({key: value for key, value in episode["protocol"].items() if key not in _OWN}, sort_keys=True)
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


def _scene_rows(artifacts: Path, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    states = read_parquet(artifacts / "demos/initial_states.parquet", ["set", "task", "seed"]).to_pylist()
    sets = {(state["task"], state["seed"]): state["set"] for state in states}
    seen = defaultdict(set)
    for episode in episodes:
        seen[episode["task"], episode["seed"]].add(episode["policy"])
    policies = {*_SAVED, *(episode["policy"] for episode in episodes)}
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


def _rate_rows(episodes: list[dict[str, Any]], summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for policy, figures in summary["policies"].items():
        for task, rate in [("all", figures["pooled"]), *figures["tasks"].items()]:
            counted = [
                e["success"]
                for e in episodes
                if e["policy"] == policy and task in ("all", e["task"]) and e["success"] is not None
            ]
            rows.append(
                {
                    "policy": policy,
                    "task": task,
                    "recorded": f"{rate['successes']} of {rate['count']}",
                    "found": f"{sum(counted)} of {len(counted)}",
                }
            )
    return rows


def _video_rows(root: Path) -> list[dict[str, Any]]:
    files = [path for path in root.glob("videos/*.mp4") if path.stat().st_size > 0]
    return [
        {"policy": policy, "videos": sum(path.name.startswith(f"{policy}-") for path in files)} for policy in _SAVED
    ]


def _judgement(summary: dict[str, Any]) -> dict[str, Any]:
    pooled = summary["difference"]["pooled"]
    rates = {policy: figures["pooled"]["rate"] for policy, figures in summary["policies"].items()}
    return {"pairs": pooled["count"], "difference": pooled["difference"], "difference_high": pooled["high"]} | rates


def _provenance_rows(artifacts: Path, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    recorded = {(e["policy"], e["protocol"]["policy"].get("sha256", "none")) for e in episodes if e["policy"] in _SAVED}
    return [
        {"part": policy, "recorded": digest, "found": sha256(artifacts / _SAVED[policy])}
        for policy, digest in sorted(recorded)
    ]
