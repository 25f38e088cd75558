"""How imagination drifts over a chain of skills: means over the rows of chains.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CHAINED = {
    "frame": "from its own last frame",
    "latent": "from its own last latent",
    "real start": "from the real first frame of each skill",
}


def summarise_chains(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """drift_<method>: skill index → mean error; jump_latents and jump_frames: method → mean. Spaces become `_`."""
    summary: dict[str, dict[str, float]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        method_rows, name = [row for row in rows if row["method"] == method], method.replace(" ", "_")
        for skill in sorted({row["skill_index"] for row in method_rows}):
            errors = [row["error"] for row in method_rows if row["skill_index"] == skill and row["error"] is not None]
            if errors:
                summary.setdefault(f"drift_{name}", {})[str(skill)] = float(np.mean(errors))
        for column in ("jump_latents", "jump_frames"):
            jumps = [row[column] for row in method_rows if row[column] is not None]
            if jumps:
                summary.setdefault(column, {})[name] = float(np.mean(jumps))
    return summary
