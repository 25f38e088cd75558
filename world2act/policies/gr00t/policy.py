"""A GR00T-N1.6-family policy on disk and in use: weights, normalisation statistics and tokenizer in one directory.

config.json         every dimension (`configuration.py`)
model.safetensors   the weights
statistics.json     the box of proprioception and of actions over the training split
tokenizer/          words → ids
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from world2act.device import best_device
from world2act.policies.gr00t.configuration import Gr00tConfig
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax, read_statistics, write_statistics
from world2act.policies.protocol import stack_images, stack_proprio
from world2act.policies.weights import load_weights, save_weights
from world2act.policies.words import read_tokenizer, tokenize
from world2act.sims.base import Observation
from world2act.storage import write_json


class Gr00tPolicy:
    """See `world2act.policies.base.Policy`."""

    def __init__(self, model: Gr00tModel, statistics: Mapping[str, MinMax], tokenizer: PreTrainedTokenizerFast) -> None:
        self.config = model.config
        self.chunk_length, self.action_dim = model.config.chunk_length, model.config.action_dim
        self.cameras = dict.fromkeys(model.config.cameras, model.config.image_size)
        self.proprio_dim = model.config.proprio_dim
        self.statistics, self.tokenizer = statistics, tokenizer
        self.model = model.eval().requires_grad_(False)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        images = stack_images(observations, self.config.cameras, self.config.image_size)
        proprio = self.statistics[PROPRIO].normalise(stack_proprio(observations, self.config.proprio_dim))
        words, word_mask = tokenize(self.tokenizer, [o.instruction for o in observations])
        shape = (self.chunk_length, self.action_dim)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        pixels = torch.from_numpy(images).permute(0, 1, 4, 2, 3)
        device = next(self.model.parameters()).device
        inputs = (pixels, words, word_mask, torch.from_numpy(proprio), noise)
        actions = self.model.sample(*(tensor.to(device) for tensor in inputs))
        return np.clip(self.statistics[ACTION].restore(actions.cpu().numpy()), -1, 1)


def save_pretrained(
    directory: Path,
    config: Gr00tConfig,
    weights: Mapping[str, Tensor],
    statistics: Mapping[str, MinMax],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write the four parts of a policy into an existing directory."""
    write_json(directory / "config.json", config.to_dict())
    save_weights(directory / "model.safetensors", weights)
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
    model = Gr00tModel(config)
    load_weights(model, root / "model.safetensors")
    device = best_device()
    return Gr00tPolicy(model.to(device), statistics, tokenizer)
