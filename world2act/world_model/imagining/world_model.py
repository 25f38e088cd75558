"""The world model in use: a batch of skills of one length, imagined from their first latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.params import Sampler
from world2act.core.storage import read_json
from world2act.world_model.imagining.sampler import sample
from world2act.world_model.imagining.step_cache import computed_once
from world2act.world_model.parts.conditioning import LatentSpace
from world2act.world_model.parts.transformer import load_transformer

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel


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

    network: CosmosTransformer3DModel
    space: LatentSpace
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
            seeds: one per sample. What is imagined depends on the sample's seed and inputs only. The rest of the
                batch changes it by rounding at most, because sums may be split by the size of the batch.

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
                "encode the first frames with the tokenizer that the world model was trained with",
            )
        if len(prompt_embeds) != len(seeds):
            raise BadInput(
                "the prompts", "", f"{len(prompt_embeds)} of them", f"{len(seeds)}, one per seed", "give each clip one"
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
                f"at least {conditioning.shape[1] + 1}, one after the conditioning, and at most {self.max_latents}",
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
    network = load_transformer(root / "transformer")
    nn.Module.to(network, best_device())
    try:
        return make_world_model(network, read_json(root / "config.json"))
    except KeyError as error:
        key, remedy = str(error.args[0]), "an older version made it: run the world_model stage again"
        raise BadInput(root / "config.json", key, "no such key", "what that stage writes", remedy) from error


def make_world_model(network: CosmosTransformer3DModel, config: dict[str, Any]) -> WorldModel:
    """A world model of a network and the content of config.json."""
    return WorldModel(
        network.eval(),
        LatentSpace.of(config),
        config["skill_latents"],
        config["max_latents"],
        tuple(config["conditioning_latents"]),
    )
