"""Whole episodes imagined skill by skill: how imagination drifts, and how skills join; rows of chains.parquet out.

A row is a skill of a held-out episode, by one method. The world model runs from the real first frame of the skill
("real start"), and from its own end of the skill before: "frame", that frame decoded and encoded again, or "latent".
All three draw the same noise, so that the first skill is the same and the rest is drift. The baselines know what a
chain knows: the first frame of the episode and the skills. "recorded" is the video that there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from world2act.data.latent_cache import Clip, LatentCache
from world2act.world_model.imagining.imagination import Imagination
from world2act.world_model.imagining.recorded_clips import (
    clip_seed,
    episodes_of,
    imagine_clips,
    imagine_episodes,
)
from world2act.world_model.judging.baselines import BASELINES, SkillBaselines
from world2act.world_model.judging.rows import RECORDED
from world2act.world_model.parts.tokenizer import VideoTokenizer


def measure_chains(
    imagination: Imagination,
    cache: LatentCache,
    tokenizer: VideoTokenizer,
    train: Sequence[Clip],
    chains: Sequence[Sequence[Clip]],
    seed: int,
) -> list[dict[str, Any]]:
    """The rows of some held-out episodes.

    `error` and `correlation` are those of heldout.parquet, of one sample. The jumps are between a skill and the one
    before it: mean squared difference of its first latent from their last one, and root mean square change, in grey
    levels of 255, from the last frame to the next one (None for the baselines, which nobody decodes).
    """
    if not chains:
        return []
    seeds = [[clip_seed(seed, clip, 0) for clip in chain] for chain in chains]
    clips = [clip for chain in chains for clip in chain]
    videos: dict[str, list[list[np.ndarray]]] = {
        "frame": imagine_episodes(imagination, cache, tokenizer, chains, seeds, "frame"),
        "latent": imagine_episodes(imagination, cache, tokenizer, chains, seeds, "latent"),
    }
    alone = iter(imagine_clips(imagination, cache, clips, clips, [s for row in seeds for s in row]))
    videos["real start"] = [[next(alone) for _ in chain] for chain in chains]
    videos |= _baselines(cache, train, chains)
    videos[RECORDED] = [[np.array(cache.latents(clip)) for clip in chain] for chain in chains]
    means = {
        clip.prompt: SkillBaselines(*_same_skill(cache, train, clip.prompt))
        for clip in {c.prompt: c for c in clips}.values()
    }
    rows = []
    for e, chain in enumerate(chains):
        for method, found in videos.items():
            jumps = _jumps(tokenizer, found[e], decoded=method not in BASELINES)
            for clip, video, jump in zip(chain, found[e], jumps, strict=True):
                truth = np.array(cache.latents(clip), np.float64)
                mean = means[clip.prompt].mean(clip.latents)
                known = method != RECORDED
                rows.append(
                    {
                        key: getattr(clip, key)
                        for key in ("episode_index", "task", "skill_index", "skill_count", "prompt")
                    }
                    | {"method": method, "error": error(video, truth) if known else None}
                    | {"correlation": correlation(video - mean, truth - mean) if known else None}
                    | jump
                )
    return rows


def error(video: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of latents (T, C, h, w), the conditioning latent left out."""
    return float(np.square(video[1:] - truth[1:]).mean())


def correlation(imagined: np.ndarray, true: np.ndarray) -> float:
    """Of the deviations after the conditioning latent; 0 where one of them does not vary."""
    a, b = (deviation[1:].ravel() - deviation[1:].mean() for deviation in (imagined, true))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale else 0.0


def _baselines(
    cache: LatentCache, train: Sequence[Clip], chains: Sequence[Sequence[Clip]]
) -> dict[str, list[list[np.ndarray]]]:
    """Predictions of every skill from the first latent of its episode."""
    known = episodes_of(train)
    videos: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in chains] for name in BASELINES}
    for skill in range(max(map(len, chains))):
        for prompt in sorted({chain[skill].prompt for chain in chains if len(chain) > skill}):
            same = [chain for chain in known if len(chain) > skill and chain[skill].prompt == prompt]
            rows = [i for i, chain in enumerate(chains) if len(chain) > skill and chain[skill].prompt == prompt]
            if same:
                fitted = SkillBaselines(
                    [cache.latents(chain[skill]) for chain in same], [cache.latents(chain[0])[0] for chain in same]
                )
            else:
                fitted = SkillBaselines(*_same_skill(cache, train, prompt))
            queries = [cache.latents(chains[i][0])[0] for i in rows]
            predicted = fitted.predict(queries, [chains[i][skill].latents for i in rows])
            for i, prediction in zip(rows, predicted, strict=True):
                for name, video in prediction.items():
                    videos[name][i].append(video)
    return videos


def _same_skill(cache: LatentCache, train: Sequence[Clip], prompt: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    clips = [cache.latents(clip) for clip in train if clip.prompt == prompt]
    return clips, [clip[0] for clip in clips]


def _jumps(tokenizer: VideoTokenizer, videos: Sequence[np.ndarray], *, decoded: bool) -> list[dict[str, float | None]]:
    """For each skill of a chain, from the end of the one before."""
    jumps: list[dict[str, float | None]] = [{"jump_latents": None, "jump_frames": None}]
    for before, after in pairwise(videos):
        jump: dict[str, float | None] = {
            "jump_latents": float(np.square(after[0] - before[-1]).mean()),
            "jump_frames": None,
        }
        if decoded:
            last = tokenizer.decode(torch.from_numpy(np.array(before)[None]))[0, -1].astype(np.float64)
            following = tokenizer.decode(torch.from_numpy(np.array(after)[None, :2]))[0, 1]
            jump["jump_frames"] = float(np.sqrt(np.square(following - last).mean()))
        jumps.append(jump)
    return jumps
