"""A behaviour cloning policy on disk and in use.

config.json         every dimension of the network (`network.Sizes`)
model.safetensors   the weights
statistics.json     the ranges of proprioception and of actions
tokenizer/          words → ids
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.storage import read_json
from world2act.policies.behaviour_cloning.network import Network, Sizes
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax, read_statistics
from world2act.policies.observations import stack_images, stack_proprio
from world2act.policies.weights import load_weights
from world2act.policies.word_tokenizer import read_tokenizer, tokenize
from world2act.sims.base import Observation


class CloningPolicy:
    """See `world2act.policies.base.Policy`; the seeds change nothing."""

    def __init__(self, network: Network, statistics: Mapping[str, MinMax], tokenizer: PreTrainedTokenizerFast) -> None:
        self.sizes = network.sizes
        self.chunk_length, self.action_dim = network.sizes.chunk_length, network.sizes.action_dim
        self.cameras = dict.fromkeys(network.sizes.cameras, network.sizes.image_size)
        self.proprio_dim = network.sizes.proprio_dim
        self.statistics, self.tokenizer = statistics, tokenizer
        self.network = network.eval().requires_grad_(False)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        images = torch.from_numpy(stack_images(observations, self.sizes.cameras, self.sizes.image_size))
        proprio = self.statistics[PROPRIO].normalise(stack_proprio(observations, self.sizes.proprio_dim))
        words, word_mask = tokenize(self.tokenizer, [o.instruction for o in observations])
        inputs = (images.permute(0, 1, 4, 2, 3), torch.from_numpy(proprio), words, word_mask)
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            actions = self.network(*(tensor.to(device) for tensor in inputs))
        return np.clip(self.statistics[ACTION].restore(actions.cpu().numpy()), -1, 1)


def from_pretrained(directory: str | Path) -> CloningPolicy:
    """Open a policy, on the GPU where there is one.

    Raises:
        BadInput: a part is missing or damaged, or the weights are not exactly those that config.json asks for.
    """
    root = Path(directory)
    config = read_json(root / "config.json")
    expected = set(Sizes.__dataclass_fields__)
    if missing := sorted(expected - config.keys()):
        raise BadInput(root / "config.json", missing[0], "nothing", "a dimension", "restore it with `dvc checkout`")
    sizes = Sizes(
        **{key: config[key] for key in expected} | {key: tuple(config[key]) for key in ("cameras", "channels")}
    )
    statistics = read_statistics(root / "statistics.json", {ACTION: sizes.action_dim, PROPRIO: sizes.proprio_dim})
    network = Network(sizes)
    load_weights(network, root / "model.safetensors")
    device = best_device()
    return CloningPolicy(network.to(device), statistics, read_tokenizer(root / "tokenizer"))
