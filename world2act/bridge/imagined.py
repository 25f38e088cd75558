"""What the frozen world model imagines for labelled clips: the video side of stage 1.

Generated from Gaussian noise, as in stage 2, and not one-step estimates from noised ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from world2act.bridge.pairs import Pairs, action_chunks, pad_pairs
from world2act.core.params import Sampler
from world2act.core.seeds import derive
from world2act.data.latent_cache import Clip, LatentCache
from world2act.training.ranks import gather
from world2act.world_model.imagining.imagination import Imagination, embeddings
from world2act.world_model.imagining.recorded_clips import imagine_clips
from world2act.world_model.imagining.world_model import WorldModel

_BATCH = 32


def pair_seeds(base_seed: int, subset: str, count: int) -> list[int]:
    """The seeds of a subset's clips: no two subsets share one, whatever their base seeds."""
    seed = derive(base_seed, "bridge", subset)
    return [derive(seed, row) for row in range(count)]


def imagine_pairs(
    world_model: WorldModel,
    cache: LatentCache,
    clips: Sequence[Clip],
    actions: Callable[[int], np.ndarray],
    *,
    seeds: Sequence[int],
    sampler: Sampler,
    rank: int,
    ranks: int,
) -> Pairs:
    """Imagine each clip from its first frame and prompt, in its demonstrated length, and match its actions.

    The ranks share the clips; every rank gets all pairs, in the order of `clips`.

    Args:
        actions: labelled episode index → (T, A) actions of the whole episode, environment units.
        seeds: one per clip, of the noise that it is imagined from.
    """
    share = -(-len(clips) // ranks)
    # every rank must imagine equally many: the last ranks repeat the last clip
    rows = [min(row, len(clips) - 1) for row in range(rank * share, (rank + 1) * share)]
    chosen = [clips[row] for row in rows]
    imagination = Imagination(world_model, embeddings(cache), sampler, _BATCH)
    padded = torch.zeros(share, max(clip.latents for clip in clips), *cache.latent_shape)
    videos = imagine_clips(imagination, cache, chosen, chosen, [seeds[row] for row in rows])
    for latents, video in zip(padded, videos, strict=True):
        latents[: len(video)] = torch.from_numpy(video)
    everything = gather(padded)[: len(clips)].numpy()
    return pad_pairs(
        [video[: clip.latents] for video, clip in zip(everything, clips, strict=True)],
        [action_chunks(actions(clip.episode_index), clip.start, clip.end) for clip in clips],
        [clip.prompt for clip in clips],
    )
