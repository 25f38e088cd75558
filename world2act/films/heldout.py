"""Films of recorded episodes next to what the world model imagines from their first frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from world2act.core.storage import file_stem
from world2act.data.latent_cache import Clip
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import read_frames
from world2act.films.chain import film_chain
from world2act.world_model.imagining.imagination import Imagination, chains_of, clip_seed, imagine_chains
from world2act.world_model.parts.guardrail import Guardrail
from world2act.world_model.parts.tokenizer import VideoTokenizer

_FILMED_PER_TASK = 2


def film_heldout(
    directory: Path,
    imagine: Imagination,
    tokenizer: VideoTokenizer,
    dataset: EpisodeDataset,
    clips: Sequence[Clip],
    guardrail: Guardrail,
    seed: int,
) -> None:
    """Imagine the first held-out episodes of each task from their first frame, and film them into a new directory.

    Args:
        clips: the held-out clips; episodes that lack one of their skills are left out.
    """
    directory.mkdir()
    chains = chains_of(clips)
    for task in dict.fromkeys(chain[0].task for chain in chains):
        for chain in [chain for chain in chains if chain[0].task == task][:_FILMED_PER_TASK]:
            stem = directory / f"{file_stem(task)}-episode-{chain[0].episode_index}"
            film_episode(stem, imagine, tokenizer, dataset, chain, guardrail, seed)


def film_episode(
    stem: Path,
    imagine: Imagination,
    tokenizer: VideoTokenizer,
    dataset: EpisodeDataset,
    chain: Sequence[Clip],
    guardrail: Guardrail,
    seed: int,
) -> None:
    """Imagine the skills of an episode in order, from its first frame alone and in their true lengths, and film them
    below the recording, into `stem`.mp4 and `stem`.png."""
    latents = imagine_chains(imagine, tokenizer, [chain], [[clip_seed(seed, clip, 0) for clip in chain]], "frame")[0]
    recorded = read_frames(dataset, chain[0].episode_index, range(chain[0].start, chain[-1].end + 1))
    film_chain(stem, tokenizer, guardrail, [clip.prompt for clip in chain], latents, recorded, dataset.fps)
