"""A GR00T-N1.6-family policy on disk and in use, of every size and for every embodiment: one folder.

config.json             every dimension of the network (`configuration.py`)
model.safetensors       the weights, by the names of NVIDIA's checkpoints; large ones in several files (`shards.py`)
processor_config.json   what it sees, feels and does, statistics.json, embodiment_id.json, pixels.safetensors: how the
                        robot's pictures and numbers are the network's (`processing/`)
tokenizer/              words and image tokens → ids
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.storage import write_json
from world2act.policies.gr00t import shards
from world2act.policies.gr00t.configuration import Gr00tConfig, NetworkConfig
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.processing import Processor
from world2act.policies.observations import stack_proprio
from world2act.sims.base import Observation


class Gr00tPolicy:
    """See `world2act.policies.base.Policy`."""

    def __init__(self, model: Gr00tModel, processor: Processor) -> None:
        self.processor = processor
        self.chunk_length, self.action_dim = processor.chunk_length, processor.action_dim
        self.cameras = dict.fromkeys(processor.cameras, processor.image_size)
        self.proprio_dim = processor.proprio_dim
        self.model = model.eval().requires_grad_(False)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        head = self.model.config.action_head
        shape = (head.horizon, head.action_dim)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        device = next(self.model.parameters()).device
        chunk = self.model.sample(self.processor.prepare(observations).to(device), noise.to(device))
        proprio = stack_proprio(observations, self.proprio_dim)
        return np.clip(self.processor.actions(chunk.float().cpu().numpy(), proprio), -1, 1)


def save_pretrained(
    directory: Path, network: NetworkConfig, weights: Mapping[str, Tensor], processor: Processor
) -> None:
    """Write a policy into an existing directory."""
    config = Gr00tConfig(processor.chunk_length, processor.action_dim, network)
    write_json(directory / "config.json", config.to_dict())
    shards.save(directory, weights)
    processor.save(directory)


def from_pretrained(directory: str | Path) -> Gr00tPolicy:
    """Open a policy, on the GPU where there is one.

    Raises:
        BadInput: a part is missing or damaged, the weights are not exactly those that config.json asks for, or the
            processor is not of this network.
    """
    root = Path(directory)
    config = Gr00tConfig.read(root / "config.json")
    processor = Processor.open(root)
    check_fit(config.network, processor, root)
    found, right = ((part.chunk_length, part.action_dim) for part in (processor, config))
    if found != right:
        raise BadInput(root, "chunk_length, action_dim", found, f"{right}, by config.json", "use it as it was written")
    model = shards.open_network(lambda: Gr00tModel(config.network), root, torch.float32)
    return Gr00tPolicy(model.to(best_device()), processor)


def check_fit(network: NetworkConfig, processor: Processor, folder: Path) -> None:
    """Raises `BadInput` where what the processor of a folder makes is not what its network takes."""
    language, head, settings = network.vision_language, network.action_head, processor.settings
    words = len(processor.tokenizer)
    slot = processor.slot if processor.slot < head.slots else f"below {head.slots}"
    expected = {
        "processor_kwargs.max_state_dim": (settings.max_state_dim, head.state_dim),
        "processor_kwargs.max_action_dim": (settings.max_action_dim, head.action_dim),
        "processor_kwargs.max_action_horizon": (settings.max_action_horizon, head.horizon),
        "world2act.token_side": (processor.token_side, language.token_side),
        "the tokenizer's image token": (processor.image_token, language.image_token),
        "the tokenizer's tokens": (words, min(words, language.vocabulary)),
        "the embodiment's slot": (processor.slot, slot),
    }
    for key, (found, right) in expected.items():
        if found != right:
            raise BadInput(folder, key, found, f"{right}, by config.json", "use the folder as it was written")
