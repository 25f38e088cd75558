"""Which clips of the latent cache the world model can use: for training, for judging and for films."""

from __future__ import annotations

from dataclasses import dataclass

from world2act.core.errors import BadInput
from world2act.data.latent_cache import Clip, LatentCache


@dataclass(frozen=True)
class UsableClips:
    """The clips that fit into the model, and the number of those that do not: no clip is ever cut."""

    clips: list[Clip]
    discarded: int


def usable_clips(cache: LatentCache, subset: str, max_latents: int) -> UsableClips:
    """The video-only clips of 2..max_latents latents whose prompt occurs among the training clips.

    The world model never sees labelled clips, so that what it imagines for them is not remembered.

    Raises:
        BadInput: no clip is left.
    """
    trained = {clip.prompt for clip in cache.select("video_only", "train") if 2 <= clip.latents <= max_latents}
    clips = cache.select("video_only", subset)
    fitting = [clip for clip in clips if 2 <= clip.latents <= max_latents and clip.prompt in trained]
    if not fitting:
        shortest = min(clip.latents for clip in clips)
        raise BadInput("params.yaml", "world_model.max_latents", max_latents, f"at least {shortest}", "raise it")
    return UsableClips(fitting, len(clips) - len(fitting))
