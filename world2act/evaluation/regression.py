"""Whether a released policy still does what its manifest records: a policy and a manifest in, a comparison out.

The manifest says how: the simulator, cameras and scenes of the record, the steps allowed, the confidence. The noise is
seeded by the scene, so on the machine of the record the same policy gives the same episodes. Elsewhere, differences are
compared with chance, scene by scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from pydantic import BaseModel, ValidationError, model_validator
from world2act_client.manifest import Manifest

from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.params import Camera
from world2act.evaluation.rollout import EpisodeResult, InitialState, roll_out, tasks_of_slots
from world2act.evaluation.statistics import Difference, Rate, paired_difference, wilson
from world2act.policies.base import load_policy
from world2act.sims.pool import EnvironmentPool
from world2act.sims.rig import Rig
from world2act.sims.simulator import load_simulator

_FIXED_SET = {"base": "artifacts/base_policy", "post_train": "artifacts/post_train"}


class _Demos(BaseModel):
    simulator: str
    cameras: tuple[Camera, ...]
    image_size: int
    settle_steps: int

    @model_validator(mode="before")
    @classmethod
    def _one_camera(cls, values: object) -> object:
        """Releases of earlier versions name one camera."""
        if isinstance(values, dict) and "camera" in values:
            return values | {"cameras": (values["camera"],)}
        return values


class _Evaluate(BaseModel):
    policies: dict[str, str]
    incumbent: str
    environments: int
    max_steps: int
    confidence: float

    @model_validator(mode="before")
    @classmethod
    def _fixed_set(cls, values: object) -> object:
        """Releases of earlier versions evaluated two fixed policies, and do not name them."""
        if isinstance(values, dict) and "policies" not in values:
            return values | {"policies": _FIXED_SET, "incumbent": "base"}
        return values


class _GateEvaluate(BaseModel):
    error_share: float


class _Gates(BaseModel):
    evaluate: _GateEvaluate


class EvaluationParams(BaseModel):
    """The parameters of a manifest that an evaluation needs; other versions of world2act may have written the rest."""

    demos: _Demos
    evaluate: _Evaluate
    gates: _Gates


class RecordedEpisode(TypedDict):
    """An episode in a manifest's record. `success` is None after an infrastructure error."""

    task: str
    seed: int
    success: bool | None


class ComparedEpisode(RecordedEpisode):
    """An episode run again, and whether the recorded one succeeded."""

    recorded: bool | None


@dataclass(frozen=True)
class Comparison:
    """The episodes of a policy now, compared with those of its record.

    Attributes:
        now, recorded: success in the scenes where both are known.
        difference: now minus recorded, paired by scene.
        errors: episodes that ended in an infrastructure error now.
    """

    episodes: Sequence[ComparedEpisode]
    now: Rate
    recorded: Rate
    difference: Difference
    errors: int
    confidence: float

    @property
    def regressed(self) -> bool:
        """Whether the whole interval of the difference is below zero."""
        return self.difference.high < 0

    def figures(self) -> dict[str, float | int | bool]:
        """The figures that a person or an automation looks at first."""
        return {
            "success": self.now.rate,
            "recorded": self.recorded.rate,
            "pairs": self.difference.count,
            **{key: value for key, value in asdict(self.difference).items() if key != "count"},
            "confidence": self.confidence,
            "errors": self.errors,
            "regressed": self.regressed,
        }

    def __str__(self) -> str:
        change, confidence = self.difference, f"{self.confidence:.0%}"
        return (
            f"success {self.now.rate:.3f} now, {self.recorded.rate:.3f} recorded; difference {change.difference:+.3f}, "
            f"{confidence} interval {change.low:+.3f} to {change.high:+.3f}, {change.count} pairs, {self.errors} errors"
        )


def compare_with_record(policy: Path, manifest: Manifest, workers: int) -> Comparison:
    """Run the scenes of the record again.

    Args:
        policy: the release's files.
        workers: simulator processes; their number changes only the time.

    Raises:
        BadInput: the manifest has no record, or lacks a parameter of its evaluation.
        InfrastructureError: more episodes ended in an infrastructure error than `gates.evaluate.error_share` allows, or
            all of them did.
    """
    record, params = read_record(manifest), _read_params(manifest)
    demos, section = params.demos, params.evaluate
    states = [InitialState(episode["task"], episode["seed"]) for episode in record]
    slots = tasks_of_slots(states, section.environments)
    with EnvironmentPool(Rig.from_params(demos), slots, workers=workers) as pool:
        results = roll_out(load_policy(policy), pool, states, section.max_steps)
    comparison = compare(record, results, section.confidence)
    allowed = params.gates.evaluate.error_share
    if comparison.errors > allowed * len(results) or not comparison.difference.count:
        only_errors = "no pair of episodes to compare: the record holds only errors"
        first = next((result.error for result in results if result.error), only_errors)
        raise InfrastructureError(
            f"{manifest.name} v{manifest.version}\n  found:    {comparison.errors} of {len(results)} episodes ended in "
            f"an infrastructure error, the first with:\n{first}\n  expected: at most a share of {allowed}, and one "
            "pair of episodes without an error\n  remedy:   evaluate again, with fewer workers if memory ran out"
        )
    return comparison


def compare(record: Sequence[RecordedEpisode], results: Sequence[EpisodeResult], confidence: float) -> Comparison:
    """Pair results with the record by task and seed. An episode with an error, then or now, is in no pair."""
    now = {(result.task, result.seed): result.success for result in results}
    episodes: list[ComparedEpisode] = [
        {
            "task": episode["task"],
            "seed": episode["seed"],
            "recorded": episode["success"],
            "success": now[episode["task"], episode["seed"]],
        }
        for episode in record
    ]
    outcomes = [(episode["success"], episode["recorded"]) for episode in episodes]
    pairs = [(one, two) for one, two in outcomes if one is not None and two is not None]
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    return Comparison(
        episodes=episodes,
        now=wilson(sum(first), len(pairs), confidence),
        recorded=wilson(sum(second), len(pairs), confidence),
        difference=paired_difference(first, second, confidence),
        errors=sum(bool(result.error) for result in results),
        confidence=confidence,
    )


def read_record(manifest: Manifest) -> list[RecordedEpisode]:
    """The release's own episodes (task, seed, success). Raises `BadInput` if the manifest has none."""
    where = f"{manifest.name} v{manifest.version}"
    if not manifest.record:
        expected, remedy = "the episodes of an evaluation", "evaluate a release that was compared with the incumbent"
        raise BadInput(where, "record", "nothing", expected, remedy)
    policy = _policy_of(manifest)
    episodes = manifest.record.get(policy)
    if not episodes:
        remedy = "publish it after the stage evaluate, so that there is something to compare with"
        raise BadInput(where, "record", sorted(manifest.record), f"the episodes of {policy}", remedy)
    return list(episodes)


def _policy_of(manifest: Manifest) -> str:
    """The name of the released policy in the set that was evaluated: the candidate that the pipeline made.

    Raises:
        BadInput: it made several candidates, or none.
    """
    section = _read_params(manifest).evaluate
    candidates = [name for name in section.policies if name != section.incumbent]
    if len(candidates) > 1:
        made = {out["path"] for stage in manifest.lineage for out in stage["outs"]}
        candidates = [name for name in candidates if section.policies[name] in made]
    if len(candidates) != 1:
        where, expected = f"{manifest.name} v{manifest.version}", "one candidate that the pipeline made"
        raise BadInput(where, "params.evaluate.policies", section.policies, expected, "release one policy per pipeline")
    return candidates[0]


def describe_packages(manifest: Manifest) -> dict[str, str]:
    """The versions of the packages on this machine that the outcome of an episode depends on."""
    simulator = load_simulator(_read_params(manifest).demos.simulator)
    return simulator.describe()["packages"] | {"torch": version("torch")}


def _read_params(manifest: Manifest) -> EvaluationParams:
    try:
        return EvaluationParams.model_validate(manifest.params)
    except ValidationError as error:
        fault = error.errors()[0]
        where, key = f"{manifest.name} v{manifest.version}", f"params.{'.'.join(map(str, fault['loc']))}"
        raise BadInput(where, key, fault["msg"], "the parameters of its evaluation", "publish it again") from error
