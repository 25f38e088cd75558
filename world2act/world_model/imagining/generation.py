"""The world model in use: imagined latents, one skill or a whole chain of them (artifacts/world_model in).

Any length is made skill by skill: the end of a skill is the conditioning of the next. It is handed on as tensors, and
nothing passes through a file, a lossy codec or eight bits.
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

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.latent_time import latents_of
from world2act.core.params import Rollouts, Sampler
from world2act.core.storage import read_json
from world2act.world_model.imagining.sampler import sample
from world2act.world_model.imagining.step_cache import computed_once
from world2act.world_model.parts.conditioning import Change
from world2act.world_model.parts.tokenizer import VideoTokenizer
from world2act.world_model.parts.transformer import load_transformer


@dataclass(frozen=True)
class WorldModel:
    """A frozen world model.

    Attributes:
        network: `CosmosTransformer3DModel`, on the device that it imagines on.
        space: what the network denoises.
        skill_latents: prompt → latents of that skill: the median over its training clips.
        max_latents: the longest clip it was trained on.
        conditioning_latents: how many first latents it was given in training.
    """

    network: nn.Module
    space: Change
    skill_latents: dict[str, int]
    max_latents: int
    conditioning_latents: tuple[int, ...]

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
            conditioning: float32 (B, k, C, h, w), the latents of each clip's first 1 + 4 (k - 1) frames.
            prompt_embeds: (B, L, D); `no_prompt_embeds` (L, D) is the empty prompt's.
            latents: T, the conditioning latents included.
            seeds: one a sample: what it imagines depends on its seed and inputs, not on the rest of the batch. To the
                bit on one CPU thread; several split sums by the size of the batch, and were 1e-6 apart.

        Returns:
            float32 (B, T, C, h, w) normalised latents; the first k are `conditioning`.

        Raises:
            BadInput: more latents than the model was trained on, conditioning of another shape or number than it was
                given in training, or latents that are not finite, given or imagined.
        """
        self._check(conditioning, prompt_embeds, latents, seeds)
        device = next(iter(self.network.parameters())).device
        first = self.space.to_network(conditioning.transpose(1, 2)).to(device)
        with computed_once(self.network, latents):
            values = sample(
                self.network,
                first,
                prompt_embeds.to(device),
                no_prompt_embeds[None].to(device),
                latents=latents,
                seeds=seeds,
                sampler=sampler,
                prediction=self.space.prediction,
            )
        imagined = self.space.to_latents(values.to(conditioning)).transpose(1, 2).contiguous()
        imagined[:, : conditioning.shape[1]] = conditioning
        if not imagined.isfinite().all():
            rows = [i for i, clip in enumerate(imagined) if not clip.isfinite().all()]
            raise BadInput(
                "artifacts/world_model",
                "",
                f"imagined latents that are not finite (rows {rows} of a batch of {len(seeds)})",
                "numbers",
                "the weights are damaged or their training diverged: look at its log, and train again",
            )
        return imagined

    def _check(self, conditioning: Tensor, prompt_embeds: Tensor, latents: int, seeds: Sequence[int]) -> None:
        channels = self.network.config.out_channels
        if conditioning.ndim != 5 or conditioning.shape[2] != channels or len(conditioning) != len(seeds):
            raise BadInput(
                "the conditioning latents",
                "",
                f"the shape {tuple(conditioning.shape)} for {len(seeds)} seeds",
                f"({len(seeds)}, latents, {channels}, height, width)",
                "encode the first frames with the tokenizer that the world model was trained behind",
            )
        if len(prompt_embeds) != len(seeds):
            raise BadInput(
                "the prompts", "", f"{len(prompt_embeds)} of them", f"{len(seeds)}, one a seed", "give each clip one"
            )
        if not conditioning.isfinite().all():
            raise BadInput(
                "the conditioning latents",
                "",
                "values that are not finite",
                "numbers",
                "look at the frames and at the gates of tokenizer and latents",
            )
        self.check_conditioning(conditioning.shape[1])
        if not conditioning.shape[1] < latents <= self.max_latents:
            raise BadInput(
                "params.yaml",
                "world_model.max_latents",
                f"{latents} latents asked for",
                f"at least {conditioning.shape[1] + 1}, one behind the conditioning, and at most {self.max_latents}",
                "train the world model on longer clips",
            )

    def check_conditioning(self, count: int) -> None:
        """Raises `BadInput` where the model was not given so many first latents in training."""
        if count not in self.conditioning_latents:
            raise BadInput(
                "params.yaml",
                "world_model.conditioning_latents",
                f"{count} conditioning latents given",
                f"one of {list(self.conditioning_latents)}, as in training",
                "ask for fewer conditioning frames (rollouts.conditioning_frames), or train the world model on these",
            )

    def skill_length(self, prompt: str) -> int:
        """How many latents a skill gets, its first frame's included.

        Raises:
            BadInput: no training clip has this prompt.
        """
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
    """Open artifacts/world_model on the best device: the EMA weights and what config.json says of them.

    Raises:
        BadInput: a file is missing or damaged, or the keys are not the model's.
    """
    root = Path(directory)
    network = load_transformer(root / "transformer").to(best_device())
    try:
        return make_world_model(network, read_json(root / "config.json"))
    except KeyError as error:
        key, remedy = str(error.args[0]), "an older version made it: run the world_model stage again"
        raise BadInput(root / "config.json", key, "no such key", "what that stage writes", remedy) from error


def make_world_model(network: nn.Module, config: dict[str, Any]) -> WorldModel:
    """A world model of a network and the content of config.json."""
    return WorldModel(
        network.eval(),
        Change.of(config),
        config["skill_latents"],
        config["max_latents"],
        tuple(config["conditioning_latents"]),
    )


def imagine_skills(
    world_model: WorldModel,
    tokenizer: VideoTokenizer,
    first_frames: np.ndarray,
    prompts: Sequence[Sequence[str]],
    embeds: Mapping[str, Tensor],
    seeds: Sequence[Sequence[int]],
    settings: Rollouts,
) -> list[list[Tensor]]:
    """Imagine each rollout's skills in order.

    The first skill starts from the frames that are given, each later one from the last `settings.conditioning_frames`
    of the skill before, of which it gets `settings.feedback`.

    Args:
        first_frames: uint8 (R, F, H, W, 3), the real first frames of each rollout: F = 1 or 5.
        prompts: each rollout's prompts, in order.
        embeds: prompt → (L, D); the key "" is the empty prompt's.
        seeds: each rollout's sampler seeds, one a skill.

    Returns:
        For each rollout, for each of its skills, float32 (T, C, h, w), its k conditioning latents first. T is the
        skill's length and k - 1: behind five frames, a skill is as long as behind one.

    Raises:
        BadInput: there are no prompts, or an empty or unknown one; or as `WorldModel.imagine` and
            `VideoTokenizer.encode`.
    """
    _check_chains(prompts, len(first_frames))
    if any(len(chain) > 1 for chain in prompts):
        world_model.check_conditioning(latents_of(settings.conditioning_frames))
    given = [tokenizer.encode(frames[None])[0] for frames in first_frames]
    imagined: list[list[Tensor]] = [[] for _ in prompts]
    for skill, prompt, rows in skill_batches(prompts, settings.batch_size):
        conditioning = torch.stack([given[row] for row in rows])
        latents = world_model.imagine(
            conditioning,
            embeds[prompt].expand(len(rows), -1, -1),
            embeds[""],
            latents=world_model.skill_length(prompt) + conditioning.shape[1] - 1,
            seeds=[seeds[row][skill] for row in rows],
            sampler=settings.sampler,
        )
        for row, clip in zip(rows, latents, strict=True):
            imagined[row].append(clip)
            if len(prompts[row]) > skill + 1:
                given[row] = hand_on(tokenizer, clip, settings)
    return imagined


def _check_chains(prompts: Sequence[Sequence[str]], rollouts: int) -> None:
    if not prompts or len(prompts) != rollouts:
        raise BadInput(
            "the prompts",
            "",
            f"{len(prompts)} lists of them",
            f"one for each of {rollouts} rollouts",
            "name the skills",
        )
    for rollout, chain in enumerate(prompts):
        if not chain or not all(prompt.strip() for prompt in chain):
            expected = "one prompt or more, none of them empty"
            raise BadInput(f"rollout {rollout}", "prompts", list(chain), expected, "name its skills")


def hand_on(tokenizer: VideoTokenizer, latents: Tensor, settings: Rollouts) -> Tensor:
    """The conditioning latents of the next skill, (k, C, h, w), from the end of this one (T, C, h, w).

    Feedback "frame": the last 1 + 4 (k - 1) frames, decoded and encoded again, so that they are what the VAE makes of a
    clip's first frames. "latent": the last k latents as they are, with neither pass of the VAE. In a causal VAE they
    are another kind of latent than those they stand in for: the first of a clip's latents is a single frame, and each
    later one is four, seen in the light of all before. The network was trained on the former; the less happens in those
    four frames, the nearer the two are.
    """
    if settings.feedback == "latent":
        return latents[-latents_of(settings.conditioning_frames) :]
    # clip by clip: convolutions of a batch round otherwise, and a batch of them is no faster
    return tokenizer.encode_video(tokenizer.decode_video(latents[None])[:, :, -settings.conditioning_frames :])[0]


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
