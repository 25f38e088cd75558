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

from world2act.errors import BadInput
from world2act.policies.gr00t.configuration import Gr00tConfig
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.words import read_tokenizer, tokenize
from world2act.policies.normalisation import MinMax, read_statistics, write_statistics
from world2act.sims.base import Observation
from world2act.storage import read_tensors, write_json, write_tensors

ACTION, PROPRIO = "action", "observation.state"
_REMEDY = "restore it with `dvc checkout`, or delete the directory and run `dvc repro` to make it again"


class Gr00tPolicy:
    """See `world2act.policies.base.Policy`."""

    def __init__(self, model: Gr00tModel, statistics: Mapping[str, MinMax], tokenizer: PreTrainedTokenizerFast) -> None:
        self.config = model.config
        self.chunk_length, self.action_dim = model.config.chunk_length, model.config.action_dim
        self.statistics, self.tokenizer = statistics, tokenizer
        self.model = model.eval().requires_grad_(False)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        images = np.stack([np.stack([o.images[camera] for camera in self.config.cameras]) for o in observations])
        proprio = self.statistics[PROPRIO].normalise(np.stack([o.proprio for o in observations]))
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
    write_tensors(directory / "model.safetensors", {key: value.contiguous().numpy() for key, value in weights.items()})
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
    _load_strictly(model, root / "model.safetensors")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Gr00tPolicy(model.to(device), statistics, tokenizer)


def _load_strictly(model: Gr00tModel, path: Path) -> None:
    weights = read_tensors(path)
    found = {key: tuple(value.shape) for key, value in weights.items()}
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if wrong:
        raise BadInput(path, wrong[0], found.get(wrong[0]), expected.get(wrong[0]), _REMEDY)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
