"""The model card of a policy, README.md in its folder: data, parameters, metrics, gates, lineage.

A stage writes it from what it knows. It names no time and no host, so that the same run gives the same card. The gate
of the policy itself runs later; its result is in reports/gates and in the manifest of a release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, REPORTS
from world2act.core.storage import read_json, sha256
from world2act.policies.robot import RobotDescription

_HASH = 64


@dataclass(frozen=True)
class Card:
    """What a stage knows about the policy that it saves.

    Attributes:
        summary: the family, or the method, in one line.
        settings: the parameters that made it.
        inputs: the artifacts that it was made from, each with its gate.
        metrics: of the stage.
        reads: concatenated sha256 digests of what else was read, such as released weights.
    """

    summary: str
    settings: Mapping[str, object]
    inputs: Sequence[str]
    metrics: Mapping[str, float | int]
    reads: str = ""


def write_card(directory: Path, params: Params, card: Card) -> None:
    """Write README.md next to a policy's config.json, which names its family and its robot."""
    family, robot = read_json(directory / "config.json")["family"], RobotDescription.read(directory)
    demos, episodes = params.demos, read_json(ARTIFACTS / "demos/labelled/meta/info.json")
    text = f"""---
library_name: world2act
pipeline_tag: robotics
tags: [robotics, {family}]
---

# {family} for {robot.embodiment}

Family `{family}`: {card.summary}.
Open it with `world2act.policies.base.load_policy(FOLDER)`; serve it with `world2act serve FOLDER`; with
`lerobot_policy_world2act` installed, LeRobot opens it: `--policy.path=FOLDER/lerobot`.

## Protocol
{_table(("", ""), _describe(robot))}
It does nothing sensible for another robot, another camera or other units.

## Data
{episodes["total_episodes"]} labelled episodes, {episodes["total_frames"]} frames, of `{demos.simulator}`:
{", ".join(demos.tasks)}; split by episode: {", ".join(f"{key} {value}" for key, value in episodes["splits"].items())}.

## Metrics
{_table(("metric", "value"), {key: _number(value) for key, value in card.metrics.items()})}
They were measured in this run, in simulation. Success is that of a few check episodes, which are in `check.parquet` of
the base policy; the stage `evaluate` measures it with intervals.

## Gates of what it was made from
{_table(("artifact", "gate"), {name: _gate(name) for name in card.inputs})}
## Lineage
{_table(("artifact", "sha256"), _digests(card))}
Seed {params.base.seed}.

## Parameters
```yaml
{yaml.safe_dump(dict(card.settings), sort_keys=False, width=110).rstrip()}
```
"""
    (directory / "README.md").write_text(text, encoding="utf-8")


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [head, ("---", "---"), *rows.items()]
    return "".join(f"| {key} | {value} |\n" for key, value in lines)


def _describe(robot: RobotDescription) -> dict[str, str]:
    return {
        "embodiment": robot.embodiment,
        "cameras": ", ".join(robot.cameras),
        "pictures": f"{robot.image_size} x {robot.image_size} pixels, {robot.image_convention}",
        "proprioception": ", ".join(robot.proprio),
        "actions": ", ".join(robot.actions),
        "control": f"{robot.control_hz} Hz",
    }


def _digests(card: Card) -> dict[str, str]:
    digests = {name: f"`{sha256(ARTIFACTS / name)}`" for name in card.inputs}
    others = ", ".join(f"`{card.reads[i : i + _HASH]}`" for i in range(0, len(card.reads), _HASH))
    return digests | ({"weights and other parts from elsewhere": others} if others else {})


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _gate(artifact: str) -> str:
    result = read_json(REPORTS / "gates" / f"{artifact}.json")
    passed = sum(expectation["success"] for expectation in result["expectations"])
    return f"{'green' if result['success'] else 'red'}, {passed} of {len(result['expectations'])} expectations"
