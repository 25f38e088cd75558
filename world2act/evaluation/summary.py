"""artifacts/evaluate/summary.json: how often each policy succeeded, and each candidate compared with the incumbent."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_file, read_json, write_json
from world2act.evaluation.statistics import Difference, Rate, not_worse, paired_difference, wilson

if TYPE_CHECKING:  # the report and the gates read summaries, and do without simulators
    from world2act.evaluation.rollout import EpisodeResult

_Pair = tuple[bool, bool]


@dataclass(frozen=True)
class Success:
    """How often one policy succeeded. Episodes with an infrastructure error count in `errors` and in no rate."""

    pooled: Rate
    tasks: dict[str, Rate]
    errors: int


@dataclass(frozen=True)
class Candidate:
    """A candidate compared with the incumbent: success of the candidate minus that of the incumbent, paired by scene.

    Attributes:
        pooled: over the scenes of all tasks, without the pairs in which an episode had an infrastructure error.
        promote: whether the candidate may replace the incumbent.
        reason: why, in words.
    """

    pooled: Difference
    tasks: dict[str, Difference]
    promote: bool
    reason: str


@dataclass(frozen=True)
class Summary:
    """The evaluation of a set of policies.

    Attributes:
        policies: every policy that was run, including the random one.
        candidates: the policies that are compared with the incumbent.
    """

    confidence: float
    incumbent: str
    policies: dict[str, Success]
    candidates: dict[str, Candidate]

    @classmethod
    def read(cls, path: Path) -> Summary:
        """Read summary.json. Raises `BadInput` if it is missing or damaged."""
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            remedy = "delete artifacts/evaluate and run `dvc repro evaluate`"
            raise BadInput(path, key, fault["msg"], "the summary of an evaluation", remedy) from error

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def write_table(self, path: Path) -> None:
        """Write the success rates as CSV: task, policy, success, low, high."""
        with atomic_file(path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["task", "policy", "success", "low", "high"])
            for policy, success in self.policies.items():
                for task, rate in [*success.tasks.items(), ("all", success.pooled)]:
                    writer.writerow([task, policy, *(round(value, 4) for value in (rate.rate, rate.low, rate.high))])

    def metrics(self) -> dict[str, float | bool | int]:
        """The figures of the stage: success of each policy, and the difference of each candidate."""
        figures: dict[str, float | bool | int] = {
            f"success_{name}": success.pooled.rate for name, success in self.policies.items()
        }
        for name, candidate in self.candidates.items():
            figures |= {
                f"difference_{name}": candidate.pooled.difference,
                f"difference_{name}_low": candidate.pooled.low,
                f"difference_{name}_high": candidate.pooled.high,
                f"promote_{name}": candidate.promote,
            }
        return figures | {"errors": sum(success.errors for success in self.policies.values())}


def summarise(
    results: Mapping[str, Sequence[EpisodeResult]], confidence: float, *, incumbent: str, candidates: Sequence[str]
) -> Summary:
    """Success by policy and task with Wilson intervals, and every candidate compared with the incumbent.

    Args:
        results: the episodes of every policy, all from the same initial states.
    """
    return Summary(
        confidence=confidence,
        incumbent=incumbent,
        policies={name: _success(episodes, confidence) for name, episodes in results.items()},
        candidates={name: _compare(results[name], results[incumbent], confidence) for name in candidates},
    )


def _success(episodes: Sequence[EpisodeResult], confidence: float) -> Success:
    return Success(
        pooled=_rate(episodes, confidence),
        tasks={task: _rate([e for e in episodes if e.task == task], confidence) for task in _tasks(episodes)},
        errors=sum(episode.success is None for episode in episodes),
    )


def _compare(candidate: Sequence[EpisodeResult], incumbent: Sequence[EpisodeResult], confidence: float) -> Candidate:
    pairs = _pairs(candidate, incumbent)
    pooled = paired_difference(*_columns(pairs.values()), confidence)
    of_task = {task: _columns(pair for key, pair in pairs.items() if key[0] == task) for task in _tasks(candidate)}
    tasks = {task: paired_difference(*columns, confidence) for task, columns in of_task.items()}
    if not pooled.count:
        return Candidate(pooled, tasks, False, "no pair of episodes without an infrastructure error")
    promote = not_worse(*_columns(pairs.values()), confidence)
    verdict = "not worse" if promote else "worse"
    interval = f"{confidence:.0%} interval {pooled.low:+.3f} to {pooled.high:+.3f}, {pooled.count} pairs"
    reason = (
        f"{verdict} than the incumbent beyond the interval of the difference ({pooled.difference:+.3f}, {interval})"
    )
    return Candidate(pooled, tasks, promote, reason)


def _rate(episodes: Sequence[EpisodeResult], confidence: float) -> Rate:
    counted = [episode.success for episode in episodes if episode.success is not None]
    return wilson(sum(counted), len(counted), confidence)


def _tasks(episodes: Sequence[EpisodeResult]) -> list[str]:
    return list(dict.fromkeys(episode.task for episode in episodes))


def _pairs(first: Sequence[EpisodeResult], second: Sequence[EpisodeResult]) -> dict[tuple[str, int], _Pair]:
    """(task, seed) → both successes, for pairs in which neither episode had an error."""
    other = {(e.task, e.seed): e.success for e in second}
    successes = {(e.task, e.seed): (e.success, other[e.task, e.seed]) for e in first}
    return {key: (one, two) for key, (one, two) in successes.items() if one is not None and two is not None}


def _columns(pairs: Iterable[_Pair]) -> tuple[list[bool], list[bool]]:
    rows = list(pairs)
    return [first for first, _ in rows], [second for _, second in rows]
