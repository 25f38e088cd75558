"""The model card of a policy, README.md in its folder: data, parameters, metrics, gates, lineage.

Written by the pipeline from what it has at hand; it holds no time and no host: the same run gives the same card. The
gate behind the stage comes after it; its result stands in reports/gates and in a release's manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from world2act.core.params import Params
from world2act.core.stage import ARTIFACTS, REPORTS
from world2act.core.storage import read_json, sha256
from world2act.policies.robot import RobotDescription

_HASH = 64
_FAMILIES = {
    "gr00t": "vision-language features, actions by flow matching (GR00T-N1.6)",
    "cosmos_policy": "a video model that denoises actions, future and value as latent frames (Cosmos Policy)",
    "behaviour_cloning": "convolutions and a transformer, squared error",
    "remote": "served by another process or machine; only its address stands here",
    "residual": "World2Act: a residual over a frozen policy that follows imagined video",
}


def write_card(
    directory: Path, params: Params, inputs: Sequence[str], metrics: Mapping[str, float | int], reads: str = ""
) -> None:
    """Write README.md beside a policy's config.json, which names its family and its protocol.

    Args:
        inputs: the artifacts that it was made from, each with its gate.
        metrics: of the stage.
        reads: hashes, one behind the other, of what the family read besides, such as released weights.
    """
    family, robot = read_json(directory / "config.json")["family"], RobotDescription.read(directory)
    demos, episodes = params.demos, read_json(ARTIFACTS / "demos/labelled/meta/info.json")
    own = params.post_train if family == "residual" else params.base_policy
    settings = own.model_dump(mode="json")
    if own is params.base_policy:
        block = family if family in type(own).model_fields else "options"
        common = ("family", "chunk_length", "check_episodes_per_task", "training")
        settings = {key: settings[key] for key in (*common, block)}
    text = f"""---
library_name: world2act
pipeline_tag: robotics
tags: [robotics, {family}]
---

# {family} for {robot.embodiment}

Family `{family}`: {_FAMILIES.get(family, "added by another package")}.
Open it with `world2act.policies.base.load_policy(FOLDER)`; serve it with `world2act serve FOLDER`; with
`lerobot_policy_world2act` installed, LeRobot opens it: `--policy.path=FOLDER/lerobot`.

## Protocol
{
        _table(
            ("", ""),
            {
                "embodiment": robot.embodiment,
                "cameras": ", ".join(robot.cameras),
                "pictures": f"{robot.image_size} x {robot.image_size} pixels, {robot.image_convention}",
                "proprioception": ", ".join(robot.proprio),
                "actions": ", ".join(robot.actions),
                "control": f"{robot.control_hz} Hz",
            },
        )
    }
It does nothing sensible for another robot, another camera or other units.

## Data
{episodes["total_episodes"]} labelled episodes, {episodes["total_frames"]} frames, of `{demos.simulator}`:
{", ".join(demos.tasks)}; split by episode: {", ".join(f"{key} {value}" for key, value in episodes["splits"].items())}.

## Metrics
{_table(("metric", "value"), {key: _number(value) for key, value in metrics.items()})}
Those of this run, in simulation. Success counts a few check episodes: `check.parquet` of the base policy has each of
them, and the stage `evaluate` the intervals.

## Gates of what it was made from
{_table(("artifact", "gate"), {name: _gate(name) for name in inputs})}
## Lineage
{_table(("artifact", "sha256"), {name: f"`{sha256(ARTIFACTS / name)}`" for name in inputs} | _besides(reads))}
Seed {params.base.seed}.

## Parameters
```yaml
{yaml.safe_dump(settings, sort_keys=False, width=110).rstrip()}
```
"""
    (directory / "README.md").write_text(text, encoding="utf-8")


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [head, ("---", "---"), *rows.items()]
    return "".join(f"| {key} | {value} |\n" for key, value in lines)


def _besides(reads: str) -> dict[str, str]:
    hashes = [f"`{reads[i : i + _HASH]}`" for i in range(0, len(reads), _HASH)]
    return {"weights and other parts from elsewhere": ", ".join(hashes)} if hashes else {}


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _gate(artifact: str) -> str:
    result = read_json(REPORTS / "gates" / f"{artifact}.json")
    passed = sum(expectation["success"] for expectation in result["expectations"])
    return f"{'green' if result['success'] else 'red'}, {passed} of {len(result['expectations'])} expectations"
