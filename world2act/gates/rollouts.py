"""The gate of artifacts/rollouts: imagined latents and their provenance in, tables with expectations out."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.core.params import Params, Rollouts
from world2act.core.storage import read_array, read_parquet, sha256
from world2act.data.latent_cache import open_latents
from world2act.gates.engine import Table, provenance_table, why
from world2act.gates.latents import channel_rows
from world2act.gates.probes import is_finite
from world2act.world_model.imagining.rollouts import conditioning_latents

_AGAIN = "delete artifacts/rollouts and run `dvc repro rollouts`"
_COLUMNS = [
    "rollout",
    "seed",
    "task",
    "skill_index",
    "prompt",
    "offset",
    "latents",
    "conditioning_latents",
    "feedback",
    "world_model_sha256",
    "first_frame_sha256",
    "sampler",
    "sampler_seed",
]
_SHA256 = "^[0-9a-f]{64}$"


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/rollouts against the training latents. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.rollouts, artifacts / "rollouts"
    rows = read_parquet(root / "rollouts.parquet", _COLUMNS).to_pylist()
    latents = read_array(root / "latents.npy")
    low, high = limits.spread
    return [
        Table(
            "skills",
            pd.DataFrame(_skill_rows(rows, latents, params.rollouts)),
            ("rollout", "skill_index", "task", "seed"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="finite", value_set=[True], **why("Imagined latents are finite.", _AGAIN)
                ),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="offset",
                    column_B="expected_offset",
                    **why("Imagined skills lie one behind another in latents.npy, and fill it.", _AGAIN),
                ),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="skill_index",
                    column_B="expected_skill",
                    **why("Skills of a rollout follow one another from 0 on.", _AGAIN),
                ),
                gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A="latents",
                    column_B="conditioning_latents",
                    **why("Something was imagined behind the conditioning latents.", _AGAIN),
                ),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="conditioning_latents",
                    column_B="expected_conditioning",
                    **why(
                        "A rollout starts from one frame, and each later skill from as many as "
                        "rollouts.conditioning_frames (latents).",
                        _AGAIN,
                    ),
                ),
                gxe.ExpectColumnPairValuesToBeEqual(
                    column_A="feedback",
                    column_B="expected_feedback",
                    **why("What a skill handed on to the next is what rollouts.feedback says.", _AGAIN),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="motion",
                    min_value=0.01,
                    **why(
                        "Imagined video moves: latents change from the conditioning frame on (largest mean absolute "
                        "difference).",
                        "the world model repeats its conditioning frame: look at reports/gates/world_model.json",
                    ),
                ),
                gxe.ExpectColumnValueLengthsToBeBetween(
                    column="prompt", min_value=3, **why("Every skill was imagined to a prompt.", _AGAIN)
                ),
                gxe.ExpectColumnValuesToMatchRegex(
                    column="first_frame_sha256", regex=_SHA256, **why("The conditioning frame is on record.", _AGAIN)
                ),
                gxe.ExpectColumnValueLengthsToBeBetween(
                    column="sampler", min_value=3, **why("The sampler's settings are on record.", _AGAIN)
                ),
                gxe.ExpectColumnValuesToBeUnique(
                    column="sampler_seed", **why("No two skills were imagined from the same noise.", _AGAIN)
                ),
            ],
        ),
        Table(
            "channels",
            pd.DataFrame(_channel_rows(artifacts, latents)),
            ("channel",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="shift",
                    min_value=-limits.shift,
                    max_value=limits.shift,
                    **why(
                        "Imagined latents look like those of real video: a channel's mean is near that of the "
                        "training latents "
                        "(difference in their standard deviations).",
                        "the sampler drifts: more world_model training, or rollouts.sampler",
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="spread",
                    min_value=low,
                    max_value=high,
                    **why(
                        "Imagined latents look like those of real video: a channel's standard deviation is near "
                        "that of the training latents (ratio).",
                        "imagination blurs or explodes: more world_model training, or rollouts.sampler",
                    ),
                ),
            ],
        ),
        Table(
            "initial_states",
            pd.DataFrame(_state_rows(artifacts, rows)),
            ("task", "seed"),
            [
                gxe.ExpectColumnValuesToBeInSet(
                    column="set",
                    value_set=["post_training"],
                    **why("Rollouts start from post-training scenes, never from test scenes.", _AGAIN),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="rollouts",
                    min_value=1,
                    max_value=1,
                    **why(
                        "Every post-training scene was imagined, once.", f"the demonstrations changed since: {_AGAIN}"
                    ),
                ),
            ],
        ),
        provenance_table(
            [
                {
                    "part": f"world model of rollout {row['rollout']}, skill {row['skill_index']}",
                    "recorded": row["world_model_sha256"],
                    "found": found,
                }
                for found in [sha256(artifacts / "world_model/transformer")]
                for row in rows
            ],
            _AGAIN,
        ),
    ]


def _skill_rows(rows: list[dict[str, Any]], latents: np.ndarray, settings: Rollouts) -> list[dict[str, Any]]:
    result, skills, offset = [], defaultdict(int), 0
    for i, row in enumerate(rows):
        clip = latents[row["offset"] : row["offset"] + row["latents"]]
        fills = i < len(rows) - 1 or row["offset"] + row["latents"] == len(latents)
        result.append(
            row
            | {
                "finite": is_finite(clip),
                "expected_offset": offset if fills else len(latents) - row["latents"],
                "expected_skill": skills[row["rollout"]],
                "expected_conditioning": conditioning_latents(settings, row["skill_index"]),
                "expected_feedback": settings.feedback if row["skill_index"] else "none",
                "motion": float(np.abs(clip[1:] - clip[:1]).mean((1, 2, 3)).max(initial=0.0)) if len(clip) else 0.0,
            }
        )
        skills[row["rollout"]] += 1
        offset += row["latents"]
    return result


def _channel_rows(artifacts: Path, latents: np.ndarray) -> list[dict[str, Any]]:
    mean, std = latents.mean((0, 2, 3), np.float64), latents.std((0, 2, 3), np.float64)
    training = channel_rows(open_latents(artifacts / "latents"))
    return [
        {"channel": i, "shift": float((mean[i] - row["mean"]) / row["std"]), "spread": float(std[i] / row["std"])}
        for i, row in enumerate(training)
    ]


def _state_rows(artifacts: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    states = read_parquet(artifacts / "demos/initial_states.parquet", ["set", "task", "seed"]).to_pylist()
    sets = {(state["task"], state["seed"]): state["set"] for state in states}
    rollouts = defaultdict(set)
    for row in rows:
        rollouts[row["task"], row["seed"]].add(row["rollout"])
    wanted = [scene for scene, name in sets.items() if name == "post_training"]
    return [
        {"task": scene[0], "seed": scene[1], "set": sets.get(scene, "none"), "rollouts": len(rollouts[scene])}
        for scene in dict.fromkeys([*wanted, *rollouts])
    ]
