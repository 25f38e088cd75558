"""The gate of artifacts/world_model: checks its weights and what the stage `judge` measured of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.params import Params
from world2act.core.params.gates import GateWorldModel
from world2act.core.stage import METRICS
from world2act.core.storage import read_json, sha256
from world2act.core.tables import read_rows
from world2act.data.latent_cache import LatentCache, open_latents
from world2act.gates.engine.measurements import is_finite, weight_rows
from world2act.gates.engine.tables import Provenance, Table, provenance_table, weights_table
from world2act.gates.engine.vocabulary import Check, at_least, at_most, is_true, rebuild
from world2act.world_model.judging.rows import RECORDED, ChainRow, HeldoutRow, PositionRow

_REBUILD = rebuild("world_model", stage="judge")
_TRAIN = "raise world_model.training.steps or demos.video_only_per_task"
_CLIP = ("episode_index", "skill_index", "task")
_ALWAYS = [
    *("error_model", "error_one_sample", "error_first_frame", "error_skill_mean", "error_ridge", "error_nearest"),
    "correlation",
]
_SOMETIMES = ["error_shuffled", "correlation_shuffled", "psnr_reconstruction", "psnr_model"]

_SAME_CLIPS = (
    "The held-out table belongs to these clips: the recorded error of repeating the first frame agrees with the error "
    "computed from artifacts/latents (relative difference)."
)
_HELD_OUT = "The world model is judged on clips of video_only episodes that it was not trained on."
_FINITE = "Errors, correlations and decibels of the imagined clips are finite numbers."
_BEATS_FIRST_FRAME = (
    "Imagination beats repeating the first frame (ratio of mean latent errors on held-out clips, below 1 is better)."
)
_BEATS_SKILL_MEAN = (
    "Imagination beats the mean training video of the skill (ratio of mean latent errors on held-out clips, below 1 "
    "is better)."
)
_BEATS_RIDGE = (
    "Imagination beats a ridge regression from the first frame's latents (ratio of mean latent errors on held-out "
    "clips, below 1 is better)."
)
_OF_THIS_SCENE = (
    "Imagination is specific to the scene: from another clip's first frame, the correlation with what happened is "
    "lower (difference of mean correlations)."
)


@dataclass(frozen=True)
class _Clip:
    episode_index: int
    skill_index: int
    task: str
    prompt: str
    disagreement: float
    heldout: bool
    finite: bool


@dataclass(frozen=True)
class _Chain:
    episode_index: int
    skill_index: int
    task: str
    method: str
    finite: bool
    heldout: bool


@dataclass(frozen=True)
class _Position:
    episode_index: int
    skill_index: int
    task: str
    method: str
    when: str
    finite: bool
    heldout: bool


@dataclass(frozen=True)
class _Comparison:
    """Ratios of mean latent errors on held-out clips, and the gain in correlation over another clip's first frame."""

    clips: int
    over_first_frame: float
    over_skill_mean: float
    over_ridge: float
    correlation_gain: float


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Check artifacts/world_model and metrics/judge. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "world_model"
    cache = open_latents(artifacts / "latents")
    judged = artifacts.parent / METRICS / "judge/tables"
    clips = read_rows(judged / "heldout.parquet", HeldoutRow)
    chains = read_rows(judged / "chains.parquet", ChainRow)
    positions = read_rows(judged / "positions.parquet", PositionRow)
    weights = weight_rows(root, ["transformer/*.safetensors", "transformer_raw/*.safetensors"])
    provenance = [
        ("latents", read_json(root / "config.json").get("latents_sha256"), artifacts / "latents"),
        ("judged", read_json(judged / "judged.json").get("world_model_sha256"), root / "transformer"),
    ]
    clip_checks = [
        at_most("disagreement", 1e-3, _SAME_CLIPS, remedy=_REBUILD),
        is_true("heldout", _HELD_OUT, remedy=_REBUILD),
        is_true("finite", _FINITE, remedy=f"training diverged, or a latent is not finite: {_REBUILD}"),
    ]
    return [
        Table.of("clips", _Clip, _measure_clips(clips, cache), (*_CLIP, "prompt"), clip_checks),
        *_chain_tables(chains, clips, positions),
        Table.of(
            "comparison", _Comparison, [_compare(clips)], ("clips",), _comparison_checks(params.gates.world_model)
        ),
        weights_table(weights, _REBUILD),
        provenance_table(
            [Provenance(part, str(recorded), sha256(path)) for part, recorded, path in provenance],
            _REBUILD,
        ),
    ]


def _comparison_checks(limits: GateWorldModel) -> list[Check]:
    more_than_linear = f"with so few clips, a linear prediction is still better than imagination: {_TRAIN}"
    ignores_frame = f"the model ignores its conditioning frame: {_TRAIN}"
    return [
        at_most("over_first_frame", limits.over_first_frame, _BEATS_FIRST_FRAME, remedy=_TRAIN),
        at_most("over_skill_mean", limits.over_skill_mean, _BEATS_SKILL_MEAN, remedy=_TRAIN),
        at_most("over_ridge", 1.0, _BEATS_RIDGE, remedy=more_than_linear, severity="warning"),
        at_least("correlation_gain", limits.correlation_gain, _OF_THIS_SCENE, remedy=ignores_frame),
    ]


def _chain_tables(
    chains: Sequence[ChainRow], clips: Sequence[HeldoutRow], positions: Sequence[PositionRow]
) -> list[Table]:
    """The tables that have rows: chains need an episode whose skills are all usable, positions a recorded scene."""
    heldout = {(clip.episode_index, clip.skill_index) for clip in clips}
    tables = []
    if chains:
        measured = [_Chain(*_key(row), row.method, _is_sound(row), _key(row)[:2] in heldout) for row in chains]
        checks = _measured_checks("chain of skills")
        tables.append(Table.of("chains", _Chain, measured, (*_CLIP, "method"), checks))
    if positions:
        read = [
            _Position(
                *_key(row),
                row.method,
                row.when,
                is_finite(np.array(row.true_m + row.read_m, np.float64)),
                _key(row)[:2] in heldout,
            )
            for row in positions
        ]
        checks = _measured_checks("object position")
        tables.append(Table.of("positions", _Position, read, (*_CLIP, "method", "when"), checks))
    return tables


def _key(row: ChainRow | PositionRow | HeldoutRow) -> tuple[int, int, str]:
    return row.episode_index, row.skill_index, row.task


def _is_sound(row: ChainRow) -> bool:
    """Whether errors are finite, and absent for the recording; a jump may be missing but not infinite."""
    error = math.nan if row.error is None else row.error
    expected = math.isnan(error) if row.method == RECORDED else math.isfinite(error)
    return expected and not (row.jump_latents is not None and math.isinf(row.jump_latents))


def _measured_checks(kind: str) -> list[Check]:
    return [
        is_true("finite", f"Every measurement of a {kind} is a finite number.", remedy=_REBUILD),
        is_true("heldout", f"Every measured {kind} belongs to a held-out clip.", remedy=_REBUILD),
    ]


def _measure_clips(clips: Sequence[HeldoutRow], cache: LatentCache) -> list[_Clip]:
    cached = {(clip.episode_index, clip.skill_index): clip for clip in cache.clips if clip.dataset == "video_only"}
    rows = []
    for row in clips:
        clip, error = cached.get((row.episode_index, row.skill_index)), math.inf
        if clip is not None:
            latents = cache.latents(clip).astype(np.float64)
            error = float(np.square(latents[1:] - latents[0]).mean())
        always = [getattr(row, name) for name in _ALWAYS]
        sometimes = [getattr(row, name) for name in _SOMETIMES]
        rows.append(
            _Clip(
                *_key(row),
                prompt=row.prompt,
                disagreement=min(abs(error - row.error_first_frame) / max(row.error_first_frame, 1e-9), 1e9),
                heldout=clip is not None and clip.subset == "heldout",
                finite=all(map(math.isfinite, always))
                and not any(value is not None and math.isinf(value) for value in sometimes),
            )
        )
    return rows


def _compare(clips: Sequence[HeldoutRow]) -> _Comparison:
    error = np.mean([clip.error_model for clip in clips])
    gains = [
        clip.correlation - clip.correlation_shuffled
        for clip in clips
        if clip.correlation_shuffled is not None and not math.isnan(clip.correlation_shuffled)
    ]
    return _Comparison(
        clips=len(clips),
        over_first_frame=float(error / np.nanmean([clip.error_first_frame for clip in clips])),
        over_skill_mean=float(error / np.nanmean([clip.error_skill_mean for clip in clips])),
        over_ridge=float(error / np.nanmean([clip.error_ridge for clip in clips])),
        correlation_gain=float(np.mean(gains)) if gains else math.nan,
    )
