"""The gate of artifacts/rollouts: measures imagined latents and their provenance against the training latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.params import Params, Rollouts
from world2act.core.params.gates import GateRollouts
from world2act.core.storage import read_array, sha256
from world2act.core.tables import read_rows
from world2act.data.initial_states import InitialStateRow
from world2act.data.latent_cache import open_latents
from world2act.gates.engine.channels import measure_channels
from world2act.gates.engine.measurements import is_finite
from world2act.gates.engine.tables import Provenance, Table, provenance_table
from world2act.gates.engine.vocabulary import Check, at_least, between, equal, expect, greater, is_true, one_of, rebuild
from world2act.world_model.imagining.rollouts import RolloutRow, conditioning_latents

_REBUILD = rebuild("rollouts")
_SHA256 = "^[0-9a-f]{64}$"

_CONDITIONING = (
    "The first skill of a rollout starts from one frame, and every later skill from as many frames as "
    "rollouts.conditioning_frames (compared in latents)."
)
_MOVES = (
    "Imagined video moves: latents differ from the conditioning frame (largest mean absolute difference of a latent)."
)
_MEAN_AS_REAL = (
    "Imagined latents look like those of real video: the mean of each channel is near that of the training latents "
    "(difference in their standard deviations)."
)
_SPREAD_AS_REAL = (
    "Imagined latents look like those of real video: the standard deviation of each channel is near that of the "
    "training latents (ratio)."
)


@dataclass(frozen=True)
class _Skill(RolloutRow):
    finite: bool
    expected_offset: int
    expected_skill: int
    expected_conditioning: int
    expected_feedback: str
    motion: float


@dataclass(frozen=True)
class _Channel:
    """A channel compared with the training latents: shift of the mean in standard deviations, ratio of the spreads."""

    channel: int
    shift: float
    spread: float


@dataclass(frozen=True)
class _State:
    task: str
    seed: int
    set: str
    rollouts: int


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/rollouts. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "rollouts"
    rows = read_rows(root / "rollouts.parquet", RolloutRow)
    latents = read_array(root / "latents.npy")
    skills = _skill_rows(rows, latents, params.rollouts)
    channels, states = _channel_rows(artifacts, latents), _state_rows(artifacts, rows)
    return [
        Table.of("skills", _Skill, skills, ("rollout", "skill_index", "task", "seed"), _skill_checks()),
        Table.of("channels", _Channel, channels, ("channel",), _channel_checks(params.gates.rollouts)),
        Table.of("initial_states", _State, states, ("task", "seed"), _state_checks()),
        provenance_table(_provenance_rows(artifacts, rows), _REBUILD),
    ]


def _skill_checks() -> list[Check]:
    still = "the world model repeats its conditioning frame: look at reports/gates/world_model.json"
    connected = "Every skill started from what rollouts.feedback says: frames or latents of the previous one."
    distinct_noise = "No two skills were imagined from the same noise."
    return [
        is_true("finite", "Imagined latents are finite.", remedy=_REBUILD),
        equal(
            "offset",
            "expected_offset",
            "Imagined skills follow one another in latents.npy and fill it.",
            remedy=_REBUILD,
        ),
        equal("skill_index", "expected_skill", "The skills of a rollout are numbered from 0.", remedy=_REBUILD),
        greater("latents", "conditioning_latents", "Something was imagined after the conditioning.", remedy=_REBUILD),
        equal("conditioning_latents", "expected_conditioning", _CONDITIONING, remedy=_REBUILD),
        equal("feedback", "expected_feedback", connected, remedy=_REBUILD),
        at_least("motion", 0.01, _MOVES, remedy=still),
        at_least("prompt", 3, "Every skill was imagined from a prompt.", remedy=_REBUILD, of="length"),
        expect(
            "column_values_to_match_regex",
            ["first_frame_sha256"],
            "The hash of the conditioning frame is recorded.",
            remedy=_REBUILD,
            regex=_SHA256,
        ),
        at_least("sampler", 3, "The settings of the sampler are recorded.", remedy=_REBUILD, of="length"),
        expect("column_values_to_be_unique", ["sampler_seed"], distinct_noise, remedy=_REBUILD),
    ]


def _channel_checks(limits: GateRollouts) -> list[Check]:
    low, high = limits.spread
    drifts = "the sampler drifts: train the world model for longer, or change rollouts.sampler"
    blurs = "imagination blurs or explodes: train the world model for longer, or change rollouts.sampler"
    return [
        between("shift", -limits.shift, limits.shift, _MEAN_AS_REAL, remedy=drifts),
        between("spread", low, high, _SPREAD_AS_REAL, remedy=blurs),
    ]


def _state_checks() -> list[Check]:
    changed = f"the demonstrations have changed since the rollouts were imagined: {_REBUILD}"
    scenes = "Rollouts start from post-training scenes, never from test scenes."
    return [
        one_of("set", ["post_training"], scenes, remedy=_REBUILD),
        between("rollouts", 1, 1, "Every post-training scene was imagined exactly once.", remedy=changed),
    ]


def _provenance_rows(artifacts: Path, rows: Sequence[RolloutRow]) -> list[Provenance]:
    current = sha256(artifacts / "world_model/transformer")
    return [
        Provenance(f"world model of rollout {row.rollout}, skill {row.skill_index}", row.world_model_sha256, current)
        for row in rows
    ]


def _skill_rows(rows: Sequence[RolloutRow], latents: np.ndarray, settings: Rollouts) -> list[_Skill]:
    measured, offset = [], 0
    numbers: Counter[int] = Counter()
    for i, row in enumerate(rows):
        clip = latents[row.offset : row.offset + row.latents]
        fills = i < len(rows) - 1 or row.offset + row.latents == len(latents)
        change = np.abs(clip[1:] - clip[:1]).mean((1, 2, 3)).max(initial=0.0) if len(clip) else 0.0
        measured.append(
            _Skill(
                **vars(row),
                finite=is_finite(clip),
                expected_offset=offset if fills else len(latents) - row.latents,
                expected_skill=numbers[row.rollout],
                expected_conditioning=conditioning_latents(settings, row.skill_index),
                expected_feedback=settings.feedback if row.skill_index else "none",
                motion=float(change),
            )
        )
        numbers[row.rollout] += 1
        offset += row.latents
    return measured


def _channel_rows(artifacts: Path, latents: np.ndarray) -> list[_Channel]:
    mean, std = latents.mean((0, 2, 3), np.float64), latents.std((0, 2, 3), np.float64)
    training = measure_channels(open_latents(artifacts / "latents"))
    return [
        _Channel(i, float((mean[i] - channel.mean) / channel.std), float(std[i] / channel.std))
        for i, channel in enumerate(training)
    ]


def _state_rows(artifacts: Path, rows: Sequence[RolloutRow]) -> list[_State]:
    states = read_rows(artifacts / "demos/initial_states.parquet", InitialStateRow)
    sets = {(state.task, state.seed): state.set for state in states}
    rollouts: dict[tuple[str, int], set[int]] = {}
    for row in rows:
        rollouts.setdefault((row.task, row.seed), set()).add(row.rollout)
    wanted = [scene for scene, name in sets.items() if name == "post_training"]
    return [
        _State(*scene, sets.get(scene, "none"), len(rollouts.get(scene, ())))
        for scene in dict.fromkeys([*wanted, *rollouts])
    ]
