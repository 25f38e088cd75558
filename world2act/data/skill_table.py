"""The rows of artifacts/skills: skills.parquet and discards.parquet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SkillRow:
    """One skill of an episode.

    `start` and `end` are frames of the episode, both inclusive; `raw_end` is the boundary before it was moved onto the
    grid of latents. `provider` names what divided the instruction into prompts.
    """

    dataset: str
    episode_index: int
    subset: str
    task: str
    instruction: str
    skill_index: int
    skill_count: int
    start: int
    end: int
    raw_end: int
    prompt: str
    provider: str


@dataclass(frozen=True)
class DiscardRow:
    """One episode that was not divided into skills, and the reason."""

    dataset: str
    episode_index: int
    subset: str
    task: str
    reason: str
