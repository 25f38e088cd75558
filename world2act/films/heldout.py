"""Films of recorded episodes next to what the world model imagines from their first frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from world2act.core.storage import file_stem
from world2act.data.latent_cache import Clip, LatentCache
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import read_frames
from world2act.films.chain import film_chain
from world2act.world_model.imagining.imagination import Imagination
from world2act.world_model.imagining.recorded_clips import clip_seed, episodes_of, imagine_episodes
from world2act.world_model.parts.guardrail import Guardrail
from world2act.world_model.parts.tokenizer import VideoTokenizer

_FILMED_PER_TASK = 2


@dataclass(frozen=True)
class Studio:
    """What films of recorded episodes are made with.

    Attributes:
        dataset: the recordings, whose clips are in the cache.
        seed: of what is imagined; the films show the first draw that is measured under it.
    """

    imagination: Imagination
    cache: LatentCache
    tokenizer: VideoTokenizer
    dataset: EpisodeDataset
    guardrail: Guardrail
    seed: int


def film_heldout(directory: Path, studio: Studio, clips: Sequence[Clip]) -> None:
    """Imagine the first held-out episodes of each task from their first frame, and film them into a new directory.

    Args:
        clips: the held-out clips; episodes that lack one of their skills are left out.
    """
    directory.mkdir()
    episodes = episodes_of(clips)
    for task in dict.fromkeys(episode[0].task for episode in episodes):
        for episode in [episode for episode in episodes if episode[0].task == task][:_FILMED_PER_TASK]:
            film_episode(directory / f"{file_stem(task)}-episode-{episode[0].episode_index}", studio, episode)


def film_episode(stem: Path, studio: Studio, episode: Sequence[Clip]) -> None:
    """Imagine the skills of an episode in order, from its first frame alone and in their true lengths, and film them
    below the recording, into `stem`.mp4 and `stem`.png."""
    seeds = [clip_seed(studio.seed, clip, 0) for clip in episode]
    (latents,) = imagine_episodes(studio.imagination, studio.cache, studio.tokenizer, [episode], [seeds], "frame")
    recorded = read_frames(studio.dataset, episode[0].episode_index, range(episode[0].start, episode[-1].end + 1))
    prompts = [clip.prompt for clip in episode]
    film_chain(stem, studio.tokenizer, studio.guardrail, prompts, latents, recorded, studio.dataset.fps)
