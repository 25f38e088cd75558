"""The rows of artifacts/demos/initial_states.parquet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa


@dataclass(frozen=True)
class InitialStateRow:
    """One scene that policies start from. `set`: "post_training" or "test". `scene`: the positions in it, metres."""

    set: str
    task: str
    seed: int
    instruction: str
    scene: Annotated[list[float], pa.list_(pa.float32())]
