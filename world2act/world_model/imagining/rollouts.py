"""Imagined rollouts, artifacts/rollouts: what the post-training policy is aligned with, and where each came from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.latent_time import latents_of
from world2act.core.params import Rollouts
from world2act.core.tables import write_rows
from world2act.data.initial_states import InitialStateRow
from world2act.data.latent_cache import LatentCache


@dataclass(frozen=True)
class RolloutRow:
    """One imagined skill of a rollout: a row of rollouts.parquet.

    Its latents are latents.npy[offset : offset + latents], the first `conditioning_latents` of them given. `feedback`:
    what the skill before handed on, "none" for the first. `sampler`: the sampler's settings, JSON.
    """

    rollout: int
    seed: int
    task: str
    instruction: str
    skill_index: int
    prompt: str
    offset: int
    latents: int
    conditioning_latents: int
    feedback: str
    world_model_sha256: str
    first_frame_sha256: str
    sampler: str
    sampler_seed: int


def prompts_of(cache: LatentCache, instruction: str) -> list[str]:
    """The skills of an instruction, in order: the commonest division of it among the world model's training episodes.

    Raises:
        BadInput: no training episode has this instruction.
    """
    chains: dict[int, list[tuple[int, str]]] = {}
    for clip in cache.select("video_only", "train"):
        if clip.instruction == instruction:
            chains.setdefault(clip.episode_index, []).append((clip.skill_index, clip.prompt))
    counts = Counter(tuple(prompt for _, prompt in sorted(chain)) for chain in chains.values())
    if not counts:
        raise BadInput(
            "artifacts/latents/clips.parquet",
            "instruction",
            repr(instruction),
            "training clips of it",
            "collect demonstrations of this task, or see why they were discarded (artifacts/skills/discards.parquet)",
        )
    return list(min(counts.items(), key=lambda item: (-item[1], item[0]))[0])


def conditioning_latents(settings: Rollouts, skill_index: int) -> int:
    """How many latents a skill was given: the first one that of the scene's first frame."""
    return latents_of(settings.conditioning_frames) if skill_index else 1


def write_rollouts(
    directory: Path,
    states: Sequence[InitialStateRow],
    prompts: Sequence[Sequence[str]],
    seeds: Sequence[Sequence[int]],
    first_frames: np.ndarray,
    imagined: Sequence[Sequence[np.ndarray]],
    *,
    world_model_sha256: str,
    settings: Rollouts,
) -> dict[str, int]:
    """Write rollouts.parquet and latents.npy.

    Args:
        states: rows of initial_states.parquet, one per rollout.
        imagined: for each rollout, for each skill, float32 (T, C, h, w), its conditioning latents first.

    Returns:
        How many rollouts, skills and latents there are.
    """
    rows, offset = [], 0
    for rollout, state in enumerate(states):
        frame_sha256 = hashlib.sha256(first_frames[rollout].tobytes()).hexdigest()
        for skill, latents in enumerate(imagined[rollout]):
            rows.append(
                RolloutRow(
                    rollout=rollout,
                    seed=state.seed,
                    task=state.task,
                    instruction=state.instruction,
                    skill_index=skill,
                    prompt=prompts[rollout][skill],
                    offset=offset,
                    latents=len(latents),
                    conditioning_latents=conditioning_latents(settings, skill),
                    feedback=settings.feedback if skill else "none",
                    world_model_sha256=world_model_sha256,
                    first_frame_sha256=frame_sha256,
                    sampler=json.dumps(settings.sampler.model_dump(), sort_keys=True),
                    sampler_seed=seeds[rollout][skill],
                )
            )
            offset += len(latents)
    write_rows(directory / "rollouts.parquet", RolloutRow, rows)
    latents = np.concatenate([clip for skills in imagined for clip in skills])
    np.save(directory / "latents.npy", latents, allow_pickle=False)
    return {"rollouts": len(states), "skills": len(rows), "latents": len(latents)}
