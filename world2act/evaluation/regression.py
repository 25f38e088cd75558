"""Whether a released policy still does what its manifest records: a policy and a manifest in, a comparison out.

The protocol is the manifest's: the simulator, camera and scenes of the record, the steps allowed, the confidence. The
noise is seeded by the scene, so that on the machine of the record the same policy gives the same episodes, and what
differs elsewhere is measured against chance, scene by scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    def _one_camera(cls, values: Any) -> Any:
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
    def _fixed_set(cls, values: Any) -> Any:
        """Releases of earlier versions evaluated the same two policies, and do not name them."""
        if isinstance(values, dict) and "policies" not in values:
            return values | {"policies": _FIXED_SET, "incumbent": "base"}
        return values


class _GateEvaluate(BaseModel):
    error_share: float


class _Gates(BaseModel):
    evaluate: _GateEvaluate


class Protocol(BaseModel):
    """Of a manifest's params, what an evaluation needs; other versions of world2act may have written the rest."""

    demos: _Demos
    evaluate: _Evaluate
    gates: _Gates


@dataclass(frozen=True)
class Comparison:
    """The episodes of a policy now, next to those of its record.

    Attributes:
        episodes: task, seed, recorded and success; None where an infrastructure error leaves nothing to say.
        now, recorded: success over the scenes where both are known.
        difference: now minus recorded, paired by scene.
        errors: episodes that ended in an infrastructure error now.
    """

    episodes: Sequence[dict[str, Any]]
    now: Rate
    recorded: Rate
    difference: Difference
    errors: int
    confidence: float

    @property
    def regressed(self) -> bool:
        """Whether the whole interval of the difference is below zero."""
        return self.difference.high < 0

    def figures(self) -> dict[str, Any]:
        """What a person or an automation looks at first."""
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


def evaluate_release(policy: Path, manifest: Manifest, workers: int) -> Comparison:
    """Run the scenes of the record again.

    Args:
        policy: the release's files.
        workers: simulator processes; they change nothing but the time.

    Raises:
        BadInput: the manifest has no record, or lacks a part of the protocol.
        InfrastructureError: more episodes than `gates.evaluate.error_share` allows ended in one, or all of them.
    """
    record, protocol = read_record(manifest), _read_protocol(manifest)
    demos, section = protocol.demos, protocol.evaluate
    states = [InitialState(episode["task"], episode["seed"]) for episode in record]
    slots = tasks_of_slots(states, section.environments)
    with EnvironmentPool(Rig.from_params(demos), slots, workers=workers) as pool:
        results = roll_out(load_policy(policy), pool, states, section.max_steps)
    comparison = compare(record, results, section.confidence)
    allowed = protocol.gates.evaluate.error_share
    if comparison.errors > allowed * len(results) or not comparison.difference.count:
        first = next((result.error for result in results if result.error), "no pair: the record holds only errors")
        raise InfrastructureError(
            f"{manifest.name} v{manifest.version}\n  found:    {comparison.errors} of {len(results)} episodes ended in "
            f"an infrastructure error, the first in:\n{first}\n  expected: at most a share of {allowed}, and a pair"
            "\n  remedy:   evaluate again; fewer workers if memory ran out"
        )
    return comparison


def compare(record: Sequence[Mapping[str, Any]], results: Sequence[EpisodeResult], confidence: float) -> Comparison:
    """Pair results with the record by task and seed. An episode with an error, then or now, is in no pair."""
    now = {(result.task, result.seed): result.success for result in results}
    episodes = [
        {
            "task": episode["task"],
            "seed": episode["seed"],
            "recorded": episode["success"],
            "success": now[episode["task"], episode["seed"]],
        }
        for episode in record
    ]
    pairs = [(e["success"], e["recorded"]) for e in episodes if None not in (e["success"], e["recorded"])]
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    return Comparison(
        episodes=episodes,
        now=wilson(sum(first), len(pairs), confidence),
        recorded=wilson(sum(second), len(pairs), confidence),
        difference=paired_difference(first, second, confidence),
        errors=sum(bool(result.error) for result in results),
        confidence=confidence,
    )


def read_record(manifest: Manifest) -> list[dict[str, Any]]:
    """The release's own episodes (task, seed, success). Raises `BadInput` where the manifest has none."""
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
    section = _read_protocol(manifest).evaluate
    candidates = [name for name in section.policies if name != section.incumbent]
    if len(candidates) > 1:
        made = {out["path"] for stage in manifest.lineage for out in stage["outs"]}
        candidates = [name for name in candidates if section.policies[name] in made]
    if len(candidates) != 1:
        where, expected = f"{manifest.name} v{manifest.version}", "one candidate that the pipeline made"
        raise BadInput(where, "params.evaluate.policies", section.policies, expected, "release one policy per pipeline")
    return candidates[0]


def describe_packages(manifest: Manifest) -> dict[str, str]:
    """Versions here of what the outcome of an episode depends on."""
    simulator = load_simulator(_read_protocol(manifest).demos.simulator)
    return simulator.describe()["packages"] | {"torch": version("torch")}


def _read_protocol(manifest: Manifest) -> Protocol:
    try:
        return Protocol.model_validate(manifest.params)
    except ValidationError as error:
        fault = error.errors()[0]
        where, key = f"{manifest.name} v{manifest.version}", f"params.{'.'.join(map(str, fault['loc']))}"
        raise BadInput(where, key, fault["msg"], "the protocol of its evaluation", "publish it again") from error
