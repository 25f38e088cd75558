"""Held-out clips imagined, alone and as chains of skills, in the lengths and by the prompts that they have.

In: a world model, the latent cache, clips. Out: latents to compare with those of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from world2act.core.params import Rollouts, Sampler
from world2act.core.seeds import derive
from world2act.data.latent_cache import Clip, LatentCache
from world2act.world_model.imagining.generation import WorldModel, hand_on
from world2act.world_model.parts.tokenizer import VideoTokenizer

_BATCH = 64


@dataclass(frozen=True)
class Imagination:
    """Imagines clips of a cache."""

    world_model: WorldModel
    cache: LatentCache
    sampler: Sampler

    def __call__(self, clips: Sequence[Clip], given: Sequence[np.ndarray], seeds: Sequence[int]) -> list[np.ndarray]:
        """Float32 (T, C, h, w), as long as each clip, by its prompt, from a conditioning latent (C, h, w) each."""
        embeds = self.cache.prompt_embeds
        imagined: dict[int, np.ndarray] = {}
        for length in sorted({clip.latents for clip in clips}):
            same = [i for i, clip in enumerate(clips) if clip.latents == length]
            for start in range(0, len(same), _BATCH):
                batch = same[start : start + _BATCH]
                latents = self.world_model.imagine(
                    torch.from_numpy(np.stack([given[i] for i in batch]))[:, None],
                    torch.from_numpy(embeds[[clips[i].prompt_row for i in batch]]),
                    torch.from_numpy(np.array(embeds[self.cache.no_prompt])),
                    latents=length,
                    seeds=[seeds[i] for i in batch],
                    sampler=self.sampler,
                )
                imagined |= dict(zip(batch, latents.cpu().numpy(), strict=True))
        return [imagined[i] for i in range(len(clips))]


def imagine_chains(
    imagine: Imagination,
    tokenizer: VideoTokenizer,
    chains: Sequence[Sequence[Clip]],
    seeds: Sequence[Sequence[int]],
    feedback: Literal["frame", "latent"],
) -> list[list[np.ndarray]]:
    """Imagine whole episodes from their first frame alone, each skill from the end of the one before.

    Args:
        chains: the clips of each episode, in order.
        seeds: one a clip.
        feedback: what a skill hands on, as in `world2act.world_model.imagining.generation.hand_on`.

    Returns:
        For each episode, for each of its skills, float32 (T, C, h, w).
    """
    settings = Rollouts(sampler=imagine.sampler, feedback=feedback, conditioning_frames=1, batch_size=_BATCH)
    given = [imagine.cache.latents(chain[0])[0] for chain in chains]
    imagined: list[list[np.ndarray]] = [[] for _ in chains]
    for skill in range(max(map(len, chains))):
        rows = [i for i, chain in enumerate(chains) if len(chain) > skill]
        videos = imagine([chains[i][skill] for i in rows], [given[i] for i in rows], [seeds[i][skill] for i in rows])
        for i, video in zip(rows, videos, strict=True):
            imagined[i].append(video)
            if len(chains[i]) > skill + 1:
                given[i] = hand_on(tokenizer, torch.from_numpy(video), settings)[0].numpy()
    return imagined


def chains_of(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The episodes of which every skill is among the clips, each as its clips in order."""
    episodes: dict[int, list[Clip]] = {}
    for clip in sorted(clips, key=lambda each: (each.episode_index, each.skill_index)):
        episodes.setdefault(clip.episode_index, []).append(clip)
    return [chain for chain in episodes.values() if len(chain) == chain[0].skill_count]


def clip_seed(seed: int, clip: Clip, draw: int) -> int:
    """The sampler's seed of one draw of a held-out clip, the same alone and in a chain, on any rank."""
    return derive(seed, "clip", clip.dataset, clip.episode_index, clip.skill_index, draw)
