"""Imagined rollouts as targets of stage 2 (artifacts/rollouts in)."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from world2act.bridge.adapters import Bridge
from world2act.core.storage import read_array, read_parquet
from world2act.post_training.residual.objective import Imagined

_COLUMNS = ["rollout", "task", "seed", "skill_index", "offset", "latents", "conditioning_latents"]


@torch.no_grad()
def read_targets(directory: str | Path, bridge: Bridge, max_chunks: int) -> list[Imagined]:
    """One target per rollout: B_v of its imagined latents, one skill after the other, at most `max_chunks` of them.

    The first latents of every skill are its conditioning frames. No action of that skill caused them, so they are left
    out.
    """
    latents = read_array(Path(directory) / "latents.npy")
    rows = sorted(
        read_parquet(Path(directory) / "rollouts.parquet", _COLUMNS).to_pylist(),
        key=lambda row: (row["rollout"], row["skill_index"]),
    )
    targets = []
    for _, group in groupby(rows, key=lambda row: row["rollout"]):
        skills = list(group)
        imagined = [latents[skill["offset"] :][skill["conditioning_latents"] : skill["latents"]] for skill in skills]
        frames = np.concatenate(imagined)
        tokens = bridge.video_adapter(torch.from_numpy(frames[:max_chunks]))
        targets.append(Imagined(skills[0]["task"], skills[0]["seed"], tokens))
    return targets
