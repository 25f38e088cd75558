"""The gate of artifacts/bridge: measures the adapters and the retrieval ranks of held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.bridge.rows import RetrievalRow
from world2act.core.params import Params
from world2act.core.tables import read_rows
from world2act.gates.engine.measurements import weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import at_least, between, greater, rebuild

_REBUILD = rebuild("bridge")
_TRAIN = (
    "raise bridge.training.steps; but first check the world model, because the bridge is trained on its imagination"
)
_PARTS = ("video_adapter", "action_adapter", "action_decoder")
_FINDS_ACTIONS = (
    "Imagined video finds its own actions among those of all held-out clips (top-1 retrieval, in multiples of chance)."
)
_FINDS_EXECUTION = (
    "Imagined video also finds its own actions among clips of the same skill: the bridge distinguishes executions, not "
    "only skills (top-1 retrieval, in multiples of chance)."
)


@dataclass(frozen=True)
class _Clip:
    clip: int
    prompt: str
    rank: int
    candidates: int
    cosine: float


@dataclass(frozen=True)
class _Retrieval:
    """Top-1 retrieval among all held-out clips and among those of the same skill, next to the level of chance."""

    heldout_clips: int
    top1: float
    chance: float
    times_chance: float
    top1_same_skill: float
    chance_same_skill: float
    times_chance_same_skill: float


@dataclass(frozen=True)
class _Part:
    part: str
    tensors: int


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/bridge. Raises `BadInput` when a file is missing or damaged."""
    root, limits = artifacts / "bridge", params.gates.bridge
    clips = read_rows(root / "heldout.parquet", RetrievalRow)
    weights = weight_rows(root, ["model.safetensors"])
    parts = [_Part(part, sum(weight.tensor.startswith(f"{part}.") for weight in weights)) for part in _PARTS]
    clip_checks = [
        between("cosine", -1.001, 1.001, "Similarities are cosines.", remedy=_REBUILD),
        greater("candidates", "rank", "A clip's rank is among its candidates.", remedy=_REBUILD, or_equal=True),
    ]
    retrieval_checks = [
        at_least("times_chance", limits.times_chance, _FINDS_ACTIONS, remedy=_TRAIN),
        at_least("times_chance_same_skill", 1, _FINDS_EXECUTION, remedy=_TRAIN, severity="warning"),
    ]
    part_checks = [at_least("tensors", 1, "Both adapters and the decoder have weights.", remedy=_REBUILD)]
    return [
        Table.of("clips", _Clip, _clips(clips), ("clip", "prompt"), clip_checks),
        Table.of("retrieval", _Retrieval, [_retrieval(clips)], ("heldout_clips",), retrieval_checks),
        Table.of("parts", _Part, parts, ("part",), part_checks),
        weights_table(weights, _REBUILD),
    ]


def _clips(clips: Sequence[RetrievalRow]) -> list[_Clip]:
    return [_Clip(i, clip.prompt, clip.rank, clip.candidates, clip.cosine) for i, clip in enumerate(clips)]


def _retrieval(clips: Sequence[RetrievalRow]) -> _Retrieval:
    every = _over_chance([(clip.rank, clip.candidates) for clip in clips])
    same_skill = _over_chance([(clip.rank_same_skill, clip.candidates_same_skill) for clip in clips])
    return _Retrieval(len(clips), *every, *same_skill)


def _over_chance(ranks: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Top-1 retrieval, its chance, and the ratio, from ranks and numbers of candidates."""
    top1 = float(np.mean([rank == 1 for rank, _ in ranks]))
    chance = float(np.mean([1 / candidates for _, candidates in ranks]))
    return top1, chance, top1 / chance
