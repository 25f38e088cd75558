"""The world model in use: imagined latents, one skill or a whole chain of them (artifacts/world_model in).

Any length is made skill by skill: the last frame of a skill, decoded and encoded again as tensors, is the
conditioning frame of the next; nothing passes through a file or a lossy codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

from world2act.errors import BadInput
from world2act.params import Sampler
from world2act.storage import read_json
from world2act.world_model.conditioning import Change
from world2act.world_model.sampler import sample
from world2act.world_model.tokenizer import VideoTokenizer
from world2act.world_model.transformer import load_transformer


@dataclass(frozen=True)
class WorldModel:
    """A frozen world model.

    Attributes:
        network: `CosmosTransformer3DModel`.
        space: what the network denoises.
        skill_latents: prompt → latents of that skill: the median over its training clips.
        max_latents: the longest clip it was trained on.
    """

    network: nn.Module
    space: Change
    skill_latents: dict[str, int]
    max_latents: int

    @torch.no_grad()
    def imagine(
        self,
        conditioning: Tensor,
        prompt_embeds: Tensor,
        no_prompt_embeds: Tensor,
        *,
        latents: int,
        seeds: Sequence[int],
        sampler: Sampler,
    ) -> Tensor:
        """Imagine one skill for each sample of a batch.

        Args:
            conditioning: float32 (B, C, h, w), the latent of each clip's first frame alone.
            prompt_embeds: (B, L, D); `no_prompt_embeds` (L, D) is the empty prompt's.
            latents: T, the conditioning latent included.
            seeds: one a sample: what it imagines depends on its seed and inputs, not on the rest of the batch.

        Returns:
            float32 (B, T, C, h, w) normalised latents; the first one is `conditioning`.

        Raises:
            BadInput: more latents than the model was trained on.
        """
        if latents > self.max_latents:
            raise BadInput(
                "params.yaml",
                "world_model.max_latents",
                f"{latents} latents asked for",
                f"at most {self.max_latents}",
                "train the world model on longer clips",
            )
        first = self.space.to_network(conditioning.unsqueeze(2))
        values = sample(
            self.network,
            first,
            prompt_embeds,
            no_prompt_embeds[None],
            latents=latents,
            seeds=seeds,
            sampler=sampler,
            prediction=self.space.prediction,
        )
        return self.space.to_latents(values).transpose(1, 2).contiguous()

    def skill_length(self, prompt: str) -> int:
        """How many latents a skill gets. Raises `BadInput` for a prompt that no training clip has."""
        if prompt not in self.skill_latents:
            raise BadInput(
                "artifacts/world_model/config.json",
                "skill_latents",
                repr(prompt),
                f"one of {sorted(self.skill_latents)}",
                "record demonstrations of this skill, or name a known prompt",
            )
        return self.skill_latents[prompt]


def load_world_model(directory: str | Path) -> WorldModel:
    """Open artifacts/world_model: the EMA weights and what config.json says of them.

    Raises:
        BadInput: a file is missing or damaged, or the keys are not the model's.
    """
    root = Path(directory)
    return make_world_model(load_transformer(root / "transformer"), read_json(root / "config.json"))


def make_world_model(network: nn.Module, config: dict[str, Any]) -> WorldModel:
    """A world model of a network and the content of config.json."""
    return WorldModel(network.eval(), Change.of(config), config["skill_latents"], config["max_latents"])


def imagine_skills(
    world_model: WorldModel,
    tokenizer: VideoTokenizer,
    first_frames: np.ndarray,
    prompts: Sequence[Sequence[str]],
    embeds: Mapping[str, Tensor],
    seeds: Sequence[Sequence[int]],
    *,
    sampler: Sampler,
    batch_size: int,
) -> list[list[Tensor]]:
    """Imagine each rollout's skills in order.

    Args:
        first_frames: uint8 (R, H, W, 3), the real first frame of each rollout.
        prompts: each rollout's prompts, in order.
        embeds: prompt → (L, D); the key "" is the empty prompt's.
        seeds: each rollout's sampler seeds, one a skill.

    Returns:
        For each rollout, for each of its skills, float32 (T, C, h, w), its conditioning latent first.
    """
    frames = np.array(first_frames)
    imagined: list[list[Tensor]] = [[] for _ in prompts]
    for skill, prompt, rows in skill_batches(prompts, batch_size):
        latents = world_model.imagine(
            tokenizer.encode(frames[rows][:, None])[:, 0],
            embeds[prompt].expand(len(rows), -1, -1),
            embeds[""],
            latents=world_model.skill_length(prompt),
            seeds=[seeds[row][skill] for row in rows],
            sampler=sampler,
        )
        frames[rows] = tokenizer.decode(latents)[:, -1]
        for row, clip in zip(rows, latents, strict=True):
            imagined[row].append(clip)
    return imagined


def skill_batches(prompts: Sequence[Sequence[str]], batch_size: int) -> Iterator[tuple[int, str, list[int]]]:
    """The batches that rollouts are imagined in, in order: (place in the chain, prompt, rollouts).

    Args:
        prompts: each rollout's prompts, in order.
    """
    for skill in range(max(map(len, prompts))):
        asked = [(chain[skill], rollout) for rollout, chain in enumerate(prompts) if skill < len(chain)]
        for prompt in sorted({prompt for prompt, _ in asked}):
            rollouts = [rollout for other, rollout in asked if other == prompt]
            for start in range(0, len(rollouts), batch_size):
                yield skill, prompt, rollouts[start : start + batch_size]


def independent_rollouts(prompts: Sequence[Sequence[str]], batch_size: int) -> list[list[int]]:
    """The rollouts in the smallest groups that share no batch, for `imagine_skills` to imagine apart.

    A group is batched among itself as among all: it holds whole batches of each prompt, of which only the last can be
    short.
    """
    graph = nx.Graph()
    for _, _, rollouts in skill_batches(prompts, batch_size):
        nx.add_path(graph, rollouts)
    return sorted(sorted(group) for group in nx.connected_components(graph))
