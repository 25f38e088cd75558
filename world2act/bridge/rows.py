"""The rows of artifacts/bridge/heldout.parquet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetrievalRow:
    """The rank of one held-out clip's own actions, 1 being best, among all clips' and among those of its own skill.

    `cosine`: the similarity of the clip's video with its own actions.
    """

    prompt: str
    rank: int
    candidates: int
    rank_same_skill: int
    candidates_same_skill: int
    cosine: float
