"""Recorded clips imagined again, alone and as whole episodes, with the lengths and prompts that they have.

In: clips of the latent cache. Out: latents to compare with those of the cache, or to film next to the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from world2act.core.params import Sampler
from world2act.core.seeds import derive
from world2act.data.latent_cache import Clip, LatentCache
from world2act.world_model.imagining.imagination import Handover, Imagination, Skill, embeddings
from world2act.world_model.imagining.world_model import WorldModel
from world2act.world_model.parts.tokenizer import VideoTokenizer

_BATCH = 64


def make_imagination(world_model: WorldModel, cache: LatentCache, sampler: Sampler) -> Imagination:
    """What imagines clips of this cache."""
    return Imagination(world_model, embeddings(cache), sampler, _BATCH)


def imagine_clips(
    imagination: Imagination, cache: LatentCache, clips: Sequence[Clip], starts: Sequence[Clip], seeds: Sequence[int]
) -> list[np.ndarray]:
    """Imagine clips, each from the first latent of a clip that need not be itself.

    Args:
        starts: the clip whose first latent each of `clips` starts from.

    Returns:
        float32 (T, C, h, w) per clip, as long as the clip.
    """
    skills = [skill_of(clip, seed) for clip, seed in zip(clips, seeds, strict=True)]
    imagined = imagination.skills([first_latent(cache, clip) for clip in starts], skills)
    return [latents.numpy() for latents in imagined]


def imagine_episodes(
    imagination: Imagination,
    cache: LatentCache,
    tokenizer: VideoTokenizer,
    episodes: Sequence[Sequence[Clip]],
    seeds: Sequence[Sequence[int]],
    feedback: Literal["frame", "latent"],
) -> list[list[np.ndarray]]:
    """Imagine whole episodes from their first frame alone, each skill from the end of the one before.

    Args:
        episodes: the clips of each episode, in order.
        seeds: one per clip.
        feedback: what a skill hands on, as in `Handover`.

    Returns:
        For each episode, for each of its skills, float32 (T, C, h, w).
    """
    chains = [
        [skill_of(clip, seed) for clip, seed in zip(clips, of_episode, strict=True)]
        for clips, of_episode in zip(episodes, seeds, strict=True)
    ]
    first = [first_latent(cache, clips[0]) for clips in episodes]
    imagined = imagination.chains(first, chains, tokenizer, Handover(feedback, 1))
    return [[latents.numpy() for latents in chain] for chain in imagined]


def skill_of(clip: Clip, seed: int) -> Skill:
    """The skill that a clip shows, after its first latent."""
    return Skill(clip.prompt, clip.latents - 1, seed)


def first_latent(cache: LatentCache, clip: Clip) -> Tensor:
    """The latent of a clip's first frame, float32 (1, C, h, w)."""
    return torch.from_numpy(np.array(cache.latents(clip)[:1]))


def episodes_of(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The episodes of which every skill is among the clips, each as its clips in order."""
    episodes: dict[int, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: (clip.episode_index, clip.skill_index)):
        episodes.setdefault(clip.episode_index, []).append(clip)
    return [episode for episode in episodes.values() if len(episode) == episode[0].skill_count]


def clip_seed(seed: int, clip: Clip, draw: int) -> int:
    """The seed of one draw of a clip, the same alone and in an episode, on any rank."""
    return derive(seed, "clip", clip.dataset, clip.episode_index, clip.skill_index, draw)
