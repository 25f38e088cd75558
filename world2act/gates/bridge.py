"""The gate of artifacts/bridge: measures the adapters and the retrieval ranks of held-out clips."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_parquet
from world2act.gates.engine.measurements import weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import at_least, between, greater, rebuild

_REBUILD = rebuild("bridge")
_TRAIN = (
    "raise bridge.training.steps, or look at the world model first: its imagination is what the bridge is trained on"
)
_COLUMNS = ["prompt", "rank", "candidates", "rank_same_skill", "candidates_same_skill", "cosine"]
_PARTS = ("video_adapter", "action_adapter", "action_decoder")
_FINDS_ACTIONS = (
    "Imagined video finds its own actions among those of all held-out clips (top-1 retrieval, in multiples of chance)."
)
_FINDS_EXECUTION = (
    "Imagined video also finds its own actions among those of clips of the same skill: the bridge tells executions "
    "apart, not only skills (top-1 retrieval, in multiples of chance)."
)


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/bridge. Raises `BadInput` when a file is missing or damaged."""
    root, limits = artifacts / "bridge", params.gates.bridge
    clips = read_parquet(root / "heldout.parquet", _COLUMNS).to_pandas()
    weights = weight_rows(root, ["model.safetensors"])
    parts = [{"part": part, "tensors": sum(row["tensor"].startswith(f"{part}.") for row in weights)} for part in _PARTS]
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
        Table("clips", clips.rename_axis("clip").reset_index(), ("clip", "prompt"), clip_checks),
        Table("retrieval", _retrieval(clips), ("heldout_clips",), retrieval_checks),
        Table("parts", pd.DataFrame(parts), ("part",), part_checks),
        weights_table(weights, _REBUILD),
    ]


def _retrieval(clips: pd.DataFrame) -> pd.DataFrame:
    row = {"heldout_clips": len(clips)}
    for suffix in ("", "_same_skill"):
        top1, chance = (clips[f"rank{suffix}"] == 1).mean(), (1 / clips[f"candidates{suffix}"]).mean()
        row |= {f"top1{suffix}": top1, f"chance{suffix}": chance, f"times_chance{suffix}": top1 / chance}
    return pd.DataFrame([row])
