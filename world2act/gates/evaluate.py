"""The gate of artifacts/evaluate: measures episodes, summary and videos."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

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
    "a simulator or its process failed: read `error` in the files of artifacts/evaluate/episodes, and run the stage "
    "again, with fewer base.workers if memory ran out"
)
_POLICY_KEYS = ("policy", "chunk_length")
"""The part of an episode's protocol that may differ between policies."""

_OUTCOME = (
    "An episode succeeded, failed, or had an infrastructure error, which is never counted as a failure of the policy."
)
_ACTION_BOX = "The recorded actions are finite and in [-1, 1], the box of the environment."
_FEW_ERRORS = "Almost no episode ended in an infrastructure error (share)."
_ONE_PROTOCOL = "All policies were evaluated in the same way, except for what belongs to the policy itself."
_TEST_SCENES = "Only test scenes were used: none that anything was trained on."
_PAIRED = "Every policy was run from every test scene (found: the policies that were not)."
_COUNTED_AGAIN = "The success rates in summary.json agree with a new count of the episodes."
_FILMED = "There are videos of every policy of the set."
_NO_WORSE = (
    "The candidate is no worse than the incumbent: the interval of the difference in success reaches 0 (upper end of "
    "the interval)."
)
_BEATS_RANDOM = "The incumbent succeeds more often than a random policy on the test scenes."
_ROOM_LEFT = "The incumbent leaves room for improvement (success rate)."
_NOT_PROMOTED = "the candidate will not be promoted: look at the curves of its training and at the videos"


@dataclass(frozen=True)
class _Episode:
    """One episode, as its JSON file records it.

    Attributes:
        actions: (steps, action_dim).
        protocol: how it was run, as JSON, without what belongs to the policy.
        policy_sha256: of the policy's folder; "none" if the policy has no folder.
    """

    policy: str
    task: str
    seed: int
    success: bool | None
    error: str
    steps: int
    actions: np.ndarray
    protocol: str
    policy_sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        record = read_json(path)
        common = {key: value for key, value in record["protocol"].items() if key not in _POLICY_KEYS}
        return cls(
            policy=path.parent.name,
            task=record["task"],
            seed=record["seed"],
            success=record["success"],
            error=record["error"],
            steps=record["steps"],
            actions=np.array(record["actions"], np.float64),
            protocol=json.dumps(common, sort_keys=True),
            policy_sha256=record["protocol"]["policy"].get("sha256", "none"),
        )


@dataclass(frozen=True)
class _EpisodeRow:
    policy: str
    task: str
    seed: int
    steps: int
    actions: int
    outcome: str
    largest_action: float


@dataclass(frozen=True)
class _Policy:
    """`protocols`: how many different protocols there are in the whole evaluation, the same in every row."""

    policy: str
    episodes: int
    error_share: float
    protocols: int


@dataclass(frozen=True)
class _Scene:
    """`missing`: the policies that were not run from it."""

    task: str
    seed: int
    set: str
    missing: str


@dataclass(frozen=True)
class _Rate:
    """The success of a policy as summary.json records it, and as counted from the episodes."""

    policy: str
    task: str
    recorded: str
    found: str


@dataclass(frozen=True)
class _Videos:
    policy: str
    videos: int


@dataclass(frozen=True)
class _Candidate:
    policy: str
    pairs: int
    difference: float
    difference_high: float


@dataclass(frozen=True)
class _Incumbent:
    """Success rates of the incumbent and of the random policy."""

    policy: str
    incumbent: float
    random: float


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/evaluate. Raises `BadInput` when a file is missing or damaged."""
    root, section = artifacts / "evaluate", params.evaluate
    episodes = [_Episode.read(path) for path in sorted((root / "episodes").glob("*/*.json"))]
    if not episodes:
        raise BadInput(root / "episodes", "", "no episode", "one JSON file per episode", _REBUILD)
    summary = Summary.read(root / "summary.json")
    policy_checks = [
        at_most("error_share", params.gates.evaluate.error_share, _FEW_ERRORS, remedy=_READ_ERRORS),
        one_of("protocols", [1], _ONE_PROTOCOL, remedy=_REBUILD),
    ]
    scene_checks = [
        one_of("set", ["test"], _TEST_SCENES, remedy=_REBUILD),
        one_of("missing", [""], _PAIRED, remedy=_REBUILD),
    ]
    rate_checks = [equal("recorded", "found", _COUNTED_AGAIN, remedy=_REBUILD)]
    video_checks = [at_least("videos", 1, _FILMED, remedy="raise evaluate.videos_per_task")]
    not_worse = [at_least("difference_high", 0, _NO_WORSE, remedy=_NOT_PROMOTED, severity="warning")]
    scenes = _scene_rows(artifacts, episodes, section)
    return [
        _episodes_table(episodes, section.max_steps),
        Table.of("policies", _Policy, _policy_rows(episodes), ("policy", "episodes"), policy_checks),
        Table.of("scenes", _Scene, scenes, ("task", "seed"), scene_checks),
        Table.of("rates", _Rate, _rate_rows(episodes, summary), ("policy", "task"), rate_checks),
        Table.of("videos", _Videos, _video_rows(root, section), ("policy",), video_checks),
        Table.of("candidates", _Candidate, _candidate_rows(summary), ("policy", "pairs"), not_worse),
        Table.of("incumbent", _Incumbent, [_incumbent_row(summary)], ("policy",), _incumbent_checks()),
        provenance_table(_provenance_rows(artifacts, episodes, section), _REBUILD),
    ]


def _episodes_table(episodes: Sequence[_Episode], max_steps: int) -> Table:
    outcomes = ["success", "failure", "infrastructure error"]
    checks = [
        one_of("outcome", outcomes, _OUTCOME, remedy=_REBUILD),
        at_most("largest_action", 1, _ACTION_BOX, remedy=_REBUILD),
        at_most("steps", max_steps, "No episode was longer than allowed (control steps).", remedy=_REBUILD),
        equal("steps", "actions", "The action of every step is recorded.", remedy=_REBUILD),
    ]
    return Table.of("episodes", _EpisodeRow, map(_episode_row, episodes), ("policy", "task", "seed"), checks)


def _incumbent_checks() -> list[Check]:
    """Whether the evaluation can show an improvement; none of these stops the pipeline."""
    longer = "train the incumbent for longer: raise base_policy.training.steps"
    harder = "choose harder tasks, or fewer demonstrations"
    return [
        greater("incumbent", "random", _BEATS_RANDOM, remedy=longer, severity="warning"),
        at_most("incumbent", 0.95, _ROOM_LEFT, remedy=harder, severity="warning"),
    ]


def _episode_row(episode: _Episode) -> _EpisodeRow:
    outcomes = {(True, False): "success", (False, False): "failure", (None, True): "infrastructure error"}
    contradiction = f"success {episode.success} with error {episode.error!r}"
    return _EpisodeRow(
        policy=episode.policy,
        task=episode.task,
        seed=episode.seed,
        steps=episode.steps,
        actions=len(episode.actions),
        outcome=outcomes.get((episode.success, bool(episode.error)), contradiction),
        largest_action=float(np.abs(episode.actions).max(initial=0.0)) if is_finite(episode.actions) else np.inf,
    )


def _policy_rows(episodes: Sequence[_Episode]) -> list[_Policy]:
    protocols = {episode.protocol for episode in episodes}
    errors: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        errors[episode.policy].append(bool(episode.error))
    return [
        _Policy(policy, len(failed), sum(failed) / len(failed), len(protocols)) for policy, failed in errors.items()
    ]


def _scene_rows(artifacts: Path, episodes: Sequence[_Episode], section: Evaluate) -> list[_Scene]:
    states = read_rows(artifacts / "demos/initial_states.parquet", InitialStateRow)
    sets = {(state.task, state.seed): state.set for state in states}
    run: dict[tuple[str, int], set[str]] = defaultdict(set)
    for episode in episodes:
        run[episode.task, episode.seed].add(episode.policy)
    policies = {*section.policies, *(episode.policy for episode in episodes)}
    test_scenes = [scene for scene, name in sets.items() if name == "test"]
    return [
        _Scene(*scene, sets.get(scene, "none"), ", ".join(sorted(policies - run[scene])))
        for scene in dict.fromkeys([*test_scenes, *run])
    ]


def _rate_rows(episodes: Sequence[_Episode], summary: Summary) -> list[_Rate]:
    rows = []
    for policy, success in summary.policies.items():
        for task, rate in [("all", success.pooled), *success.tasks.items()]:
            counted = [
                episode.success
                for episode in episodes
                if episode.policy == policy and task in ("all", episode.task) and episode.success is not None
            ]
            recorded, found = f"{rate.successes} of {rate.count}", f"{sum(counted)} of {len(counted)}"
            rows.append(_Rate(policy, task, recorded, found))
    return rows


def _video_rows(root: Path, section: Evaluate) -> list[_Videos]:
    files = [path for path in root.glob("videos/*.mp4") if path.stat().st_size > 0]
    return [_Videos(policy, sum(path.name.startswith(f"{policy}-") for path in files)) for policy in section.policies]


def _candidate_rows(summary: Summary) -> list[_Candidate]:
    pooled = {name: candidate.pooled for name, candidate in summary.candidates.items()}
    return [_Candidate(name, change.count, change.difference, change.high) for name, change in pooled.items()]


def _incumbent_row(summary: Summary) -> _Incumbent:
    rates = {name: summary.policies[name].pooled.rate for name in (summary.incumbent, RANDOM)}
    return _Incumbent(summary.incumbent, rates[summary.incumbent], rates[RANDOM])


def _provenance_rows(artifacts: Path, episodes: Sequence[_Episode], section: Evaluate) -> list[Provenance]:
    recorded = {(episode.policy, episode.policy_sha256) for episode in episodes if episode.policy in section.policies}
    return [
        Provenance(policy, digest, sha256(_folder(artifacts, section.policies[policy])))
        for policy, digest in sorted(recorded)
    ]


def _folder(artifacts: Path, policy: str) -> Path:
    """The folder of a saved policy, which is one of the artifacts or is elsewhere."""
    path = Path(policy)
    return artifacts / path.relative_to(ARTIFACTS) if path.is_relative_to(ARTIFACTS) else artifacts.parent / path
