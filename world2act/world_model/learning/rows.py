"""The rows of artifacts/tokenizer/reconstruction.parquet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReconstructionRow:
    """One held-out clip, encoded and decoded. `frame_std`: standard deviation of a pixel over time, of 255."""

    episode_index: int
    task: str
    skill_index: int
    psnr_db: float
    frame_std: float
