"""Imagined skills and chains of skills, on top of a world model.

A skill is asked for by the latents that it starts from, its prompt, its length and its seed. Any number of skills are
imagined together: they are batched by length here, and nowhere else. An episode is a chain of skills, the end of each
being the conditioning of the next. It is handed on as tensors: nothing passes through a file, a lossy codec or eight
bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from world2act.core.errors import BadInput
from world2act.core.latent_time import latents_of
from world2act.core.params import Rollouts, Sampler
from world2act.data.latent_cache import LatentCache
from world2act.world_model.imagining.world_model import WorldModel
from world2act.world_model.parts.batches import batches
from world2act.world_model.parts.tokenizer import VideoTokenizer


@dataclass(frozen=True)
class Skill:
    """A skill to imagine.

    Attributes:
        latents: how many to imagine after the conditioning latents.
        seed: of its noise.
    """

    prompt: str
    latents: int
    seed: int


@dataclass(frozen=True)
class Handover:
    """What a skill hands to the next one of its chain.

    Feedback "frame": the last `frames` frames, decoded and encoded again, so that they are what the VAE makes of a
    clip's first frames. "latent": the last latents as they are, without either pass of the VAE. In a causal VAE these
    are of another kind than the ones that they stand in for: the first latent of a clip is a single frame, and each
    later one is four frames, seen in the light of all before. The network was trained on the former; the less happens
    in those four frames, the nearer the two are.
    """

    feedback: Literal["frame", "latent"]
    frames: int

    def __call__(self, tokenizer: VideoTokenizer, latents: Tensor) -> Tensor:
        """The conditioning latents of the next skill, (k, C, h, w), from the end of this one, (T, C, h, w)."""
        if self.feedback == "latent":
            return latents[-latents_of(self.frames) :]
        # clip by clip: convolutions round differently in a batch, which would not be faster either
        return tokenizer.encode_video(tokenizer.decode_video(latents[None])[:, :, -self.frames :])[0]


@dataclass(frozen=True)
class Imagination:
    """Imagines skills, whichever they are.

    Attributes:
        embeds: prompt → its embedding, (L, D); the key "" is the empty prompt's.
        batch_size: at most so many skills pass through the network together.
        batch_by: "length" batches skills of one length. "prompt" batches only skills of one prompt, so that skills of
            different prompts can be imagined apart (`independent_rollouts`).
    """

    world_model: WorldModel
    embeds: Mapping[str, Tensor]
    sampler: Sampler
    batch_size: int
    batch_by: Literal["length", "prompt"] = "length"

    def skills(self, conditioning: Sequence[Tensor], skills: Sequence[Skill]) -> list[Tensor]:
        """Imagine each skill from its conditioning latents, float32 (k, C, h, w).

        Returns:
            float32 (k + latents, C, h, w) per skill, its conditioning latents first.

        Raises:
            BadInput: as `WorldModel.imagine`.
        """
        keys = [
            (skill.prompt if self.batch_by == "prompt" else "", len(first) + skill.latents, len(first))
            for first, skill in zip(conditioning, skills, strict=True)
        ]
        imagined: dict[int, Tensor] = {}
        for batch in batches(keys, self.batch_size):
            latents = self.world_model.imagine(
                torch.stack([conditioning[i] for i in batch]),
                torch.stack([self.embeds[skills[i].prompt] for i in batch]),
                self.embeds[""],
                latents=keys[batch[0]][1],
                seeds=[skills[i].seed for i in batch],
                sampler=self.sampler,
            )
            imagined |= dict(zip(batch, latents, strict=True))
        return [imagined[i] for i in range(len(skills))]

    def chains(
        self,
        conditioning: Sequence[Tensor],
        chains: Sequence[Sequence[Skill]],
        tokenizer: VideoTokenizer,
        handover: Handover,
    ) -> list[list[Tensor]]:
        """Imagine the skills of each chain in order: the first from the latents that are given, each later one from
        what the one before hands over.

        Returns:
            For each chain, for each of its skills, what `skills` returns.

        Raises:
            BadInput: the world model was not trained on as many first latents as are handed over, or as `skills`.
        """
        if any(len(chain) > 1 for chain in chains):
            self.world_model.check_conditioning(latents_of(handover.frames))
        first, imagined = list(conditioning), [list[Tensor]() for _ in chains]
        for step in range(max(map(len, chains))):
            rows = [i for i, chain in enumerate(chains) if len(chain) > step]
            made = self.skills([first[i] for i in rows], [chains[i][step] for i in rows])
            for i, latents in zip(rows, made, strict=True):
                imagined[i].append(latents)
                if len(chains[i]) > step + 1:
                    first[i] = handover(tokenizer, latents)
        return imagined


def embeddings(cache: LatentCache) -> dict[str, Tensor]:
    """Prompt → its embedding (L, D), as `Imagination` takes them."""
    return {prompt: torch.from_numpy(np.array(cache.prompt_embeds[row])) for row, prompt in enumerate(cache.prompts)}


def imagine_rollouts(
    world_model: WorldModel,
    tokenizer: VideoTokenizer,
    first_frames: np.ndarray,
    prompts: Sequence[Sequence[str]],
    embeds: Mapping[str, Tensor],
    seeds: Sequence[Sequence[int]],
    settings: Rollouts,
) -> list[list[Tensor]]:
    """Imagine rollouts from real frames, each skill as long as it usually is.

    Args:
        first_frames: uint8 (R, F, H, W, 3), the real first frames of each rollout: F = 1 or 5.
        prompts: the prompts of each rollout, in order.
        seeds: one per skill of each rollout.

    Returns:
        For each rollout, for each of its skills, float32 (T, C, h, w), its k conditioning latents first. T is the
        skill's length and k - 1: a skill is as long after five frames as after one.

    Raises:
        BadInput: there are no prompts, or an empty or unknown one; or as `Imagination.chains` and
            `VideoTokenizer.encode`.
    """
    _check_prompts(prompts, len(first_frames))
    chains = [
        [
            Skill(prompt, world_model.skill_length(prompt) - 1, seed)
            for prompt, seed in zip(chain, of_chain, strict=True)
        ]
        for chain, of_chain in zip(prompts, seeds, strict=True)
    ]
    conditioning = [tokenizer.encode(frames[None])[0] for frames in first_frames]
    imagination = Imagination(world_model, embeds, settings.sampler, settings.batch_size, batch_by="prompt")
    handover = Handover(settings.feedback, settings.conditioning_frames)
    return imagination.chains(conditioning, chains, tokenizer, handover)


def independent_rollouts(prompts: Sequence[Sequence[str]], batch_size: int) -> list[list[int]]:
    """The rollouts in the smallest groups that share no batch, for `imagine_rollouts` to imagine apart.

    A group is batched by itself as it is among all: it holds whole batches of each prompt, of which only the last can
    be short.
    """
    graph = nx.Graph()
    for rollouts in rollout_batches(prompts, batch_size):
        nx.add_path(graph, rollouts)
    return sorted(sorted(group) for group in nx.connected_components(graph))


def rollout_batches(prompts: Sequence[Sequence[str]], batch_size: int) -> Iterator[list[int]]:
    """Which rollouts are imagined together, batch by batch, as `Imagination` batches them by prompt."""
    for step in range(max(map(len, prompts))):
        rows = [i for i, chain in enumerate(prompts) if len(chain) > step]
        for batch in batches([prompts[i][step] for i in rows], batch_size):
            yield [rows[i] for i in batch]


def _check_prompts(prompts: Sequence[Sequence[str]], rollouts: int) -> None:
    if not prompts or len(prompts) != rollouts:
        found, expected = f"{len(prompts)} lists of them", f"one for each of {rollouts} rollouts"
        raise BadInput("the prompts", "", found, expected, "name the skills")
    for rollout, chain in enumerate(prompts):
        if not chain or not all(prompt.strip() for prompt in chain):
            expected = "one prompt or more, none of them empty"
            raise BadInput(f"rollout {rollout}", "prompts", list(chain), expected, "name its skills")
