"""Recorded episodes beside what the world model makes of their first frame: films of chains, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from world2act.data.latent_cache import Clip
from world2act.data.tiling import read_frames
from world2act.storage import file_stem
from world2act.world_model.film import film_chain
from world2act.world_model.guardrail import Guardrail
from world2act.world_model.imagination import Imagination, chains_of, clip_seed, imagine_chains
from world2act.world_model.quality import Subject

_FILMED_A_TASK = 2


def film_heldout(directory: Path, subject: Subject, guardrail: Guardrail) -> None:
    """Imagine the first held-out episodes of each task from their first frame, and film them into a new directory."""
    directory.mkdir()
    chains = chains_of(subject.heldout)
    for task in dict.fromkeys(chain[0].task for chain in chains):
        for chain in [chain for chain in chains if chain[0].task == task][:_FILMED_A_TASK]:
            stem = directory / f"{file_stem(task)}-episode-{chain[0].episode_index}"
            film_episode(stem, subject, chain, guardrail)


def film_episode(stem: Path, subject: Subject, chain: Sequence[Clip], guardrail: Guardrail) -> None:
    """Imagine the skills of an episode in order, from its first frame alone and in their true lengths, and film them
    below the recording."""
    imagine = Imagination(subject.world_model, subject.cache, subject.settings.sampler)
    seeds = [[clip_seed(subject.seed, clip, 0) for clip in chain]]
    latents = imagine_chains(imagine, subject.tokenizer, [chain], seeds, "frame")[0]
    dataset = subject.datasets[chain[0].dataset]
    recorded = read_frames(dataset, chain[0].episode_index, range(chain[0].start, chain[-1].end + 1))
    film_chain(stem, subject.tokenizer, guardrail, [clip.prompt for clip in chain], latents, recorded, dataset.fps)
