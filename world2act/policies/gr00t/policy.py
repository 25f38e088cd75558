"""A GR00T-N1.6-family policy on disk and in use: weights, normalisation statistics and tokenizer in one directory.

config.json         every dimension (`configuration.py`)
model.safetensors   the weights
pixels.safetensors  the mean picture of each camera over the training split, and the deviation around it
statistics.json     the box of proprioception and of actions over the training split
tokenizer/          words → ids
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from world2act.device import best_device
from world2act.policies.gr00t.configuration import Gr00tConfig, NetworkConfig
from world2act.policies.gr00t.model import Gr00tModel, Inputs
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax, read_statistics, write_statistics
from world2act.policies.protocol import stack_images, stack_proprio
from world2act.policies.weights import load_weights, save_weights
from world2act.policies.words import read_tokenizer, tokenize
from world2act.sims.base import Observation
from world2act.storage import read_tensors, write_json, write_tensors


@dataclass(frozen=True)
class PixelScale:
    """The mean picture of each camera (V, 3, S, S) and the deviation around it (V, 1, 1, 1).

    127.5 and 127.5 are SigLIP2's own range of -1 to 1; the mean picture of a fixed camera spares a small encoder the
    learning of its background.
    """

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, V, 3, S, S) → float."""
        return (images - self.mean) / self.std


class Gr00tPolicy:
    """See `world2act.policies.base.Policy`."""

    def __init__(
        self,
        config: Gr00tConfig,
        model: Gr00tModel,
        pixels: PixelScale,
        statistics: Mapping[str, MinMax],
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        self.config = config
        self.chunk_length, self.action_dim = config.chunk_length, config.action_dim
        self.cameras = dict.fromkeys(config.cameras, config.image_size)
        self.proprio_dim = config.proprio_dim
        self.pixels, self.statistics, self.tokenizer = pixels, statistics, tokenizer
        self.model = model.eval().requires_grad_(False)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        images = stack_images(observations, self.config.cameras, self.config.image_size)
        proprio = self.statistics[PROPRIO].normalise(stack_proprio(observations, self.config.proprio_dim))
        words, word_mask = tokenize(self.tokenizer, [o.instruction for o in observations])
        shape = (self.chunk_length, self.action_dim)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        pixels = self.pixels(torch.from_numpy(images).permute(0, 1, 4, 2, 3))
        prompt, mask = prompts(self.config.network, pixels, words, word_mask)
        inputs = Inputs(pixels, prompt, mask, torch.from_numpy(proprio)[:, None], self.config.embodiment_slot)
        device = next(self.model.parameters()).device
        actions = self.model.sample(inputs.to(device), noise.to(device))
        return np.clip(self.statistics[ACTION].restore(actions.cpu().numpy()), -1, 1)


def prompts(network: NetworkConfig, pixels: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, I + L): image tokens for `pixels` (B, V, 3, S, S) in front of words (B, L)."""
    sizes = network.vision_language
    count = pixels.shape[1] * sizes.image_tokens(*pixels.shape[-2:])
    images = words.new_full((len(words), count), sizes.image_token)
    return torch.cat([images, words], 1), torch.cat([images == sizes.image_token, word_mask], 1)


def save_pretrained(
    directory: Path,
    config: Gr00tConfig,
    weights: Mapping[str, Tensor],
    pixels: PixelScale,
    statistics: Mapping[str, MinMax],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write the five parts of a policy into an existing directory."""
    write_json(directory / "config.json", config.to_dict())
    save_weights(directory / "model.safetensors", weights)
    write_tensors(directory / "pixels.safetensors", {key: value.numpy() for key, value in vars(pixels).items()})
    write_statistics(directory / "statistics.json", statistics)
    tokenizer.save_pretrained(directory / "tokenizer")


def from_pretrained(directory: str | Path) -> Gr00tPolicy:
    """Open a policy, on the GPU where there is one.

    Raises:
        BadInput: a part is missing or damaged, or the weights are not exactly those that config.json asks for.
    """
    root = Path(directory)
    config = Gr00tConfig.read(root / "config.json")
    statistics = read_statistics(root / "statistics.json", {ACTION: config.action_dim, PROPRIO: config.proprio_dim})
    tokenizer = read_tokenizer(root / "tokenizer")
    scale = {key: torch.from_numpy(value) for key, value in read_tensors(root / "pixels.safetensors").items()}
    model = Gr00tModel(config.network)
    load_weights(model, root / "model.safetensors")
    return Gr00tPolicy(config, model.to(best_device()), PixelScale(**scale), statistics, tokenizer)
