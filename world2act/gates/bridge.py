"""The gate of artifacts/bridge: adapters and retrieval ranks in, tables with expectations out."""

from __future__ import annotations

from pathlib import Path

import great_expectations.expectations as gxe
import pandas as pd

from world2act.core.params import Params
from world2act.core.storage import read_parquet
from world2act.gates.engine import Table, weights_table, why
from world2act.gates.probes import weight_rows

_AGAIN = "delete artifacts/bridge and run `dvc repro bridge`"
_TRAIN = (
    "raise bridge.training.steps, or look at the world model first: its imagination is what the bridge is trained on"
)
_COLUMNS = ["prompt", "rank", "candidates", "rank_same_skill", "candidates_same_skill", "cosine"]
_PARTS = ("video_adapter", "action_adapter", "action_decoder")


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/bridge. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "bridge"
    clips = read_parquet(root / "heldout.parquet", _COLUMNS).to_pandas()
    weights = weight_rows(root, ["model.safetensors"])
    parts = [{"part": part, "tensors": sum(row["tensor"].startswith(f"{part}.") for row in weights)} for part in _PARTS]
    return [
        Table(
            "clips",
            clips.rename_axis("clip").reset_index(),
            ("clip", "prompt"),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="cosine", min_value=-1.001, max_value=1.001, **why("Similarities are cosines.", _AGAIN)
                ),
                gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A="candidates",
                    column_B="rank",
                    or_equal=True,
                    **why("A clip's rank lies among its candidates.", _AGAIN),
                ),
            ],
        ),
        Table(
            "retrieval",
            _retrieval(clips),
            ("heldout_clips",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="times_chance",
                    min_value=params.gates.bridge.times_chance,
                    **why(
                        "Imagined video finds its own actions among all held-out clips' (top-1 retrieval, in "
                        "multiples of chance).",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="times_chance_same_skill",
                    min_value=1,
                    severity="warning",
                    **why(
                        "It finds them among clips of its own skill too: the bridge tells executions apart, not "
                        "only skills "
                        "(top-1 retrieval, in multiples of chance).",
                        _TRAIN,
                    ),
                ),
            ],
        ),
        Table(
            "parts",
            pd.DataFrame(parts),
            ("part",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="tensors", min_value=1, **why("Adapters and decoder are all there.", _AGAIN)
                ),
            ],
        ),
        weights_table(weights, _AGAIN),
    ]


def _retrieval(clips: pd.DataFrame) -> pd.DataFrame:
    row = {"heldout_clips": len(clips)}
    for suffix in ("", "_same_skill"):
        top1, chance = (clips[f"rank{suffix}"] == 1).mean(), (1 / clips[f"candidates{suffix}"]).mean()
        row |= {f"top1{suffix}": top1, f"chance{suffix}": chance, f"times_chance{suffix}": top1 / chance}
    return pd.DataFrame([row])
