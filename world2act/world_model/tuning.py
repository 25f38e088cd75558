"""What of the world model's transformer is trained: all of it, or low-rank adapters, by peft as diffusers carries it.

In: a transformer and the section `world_model` of params.yaml. Out: an adapter in peft's layout that diffusers opens
again (`load_lora_adapter`), and the weights of a plain transformer with the adapter merged into them, which every
consumer reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from world2act.errors import BadInput
from world2act.params import Lora
from world2act.params import WorldModel as WorldModelParams

if TYPE_CHECKING:
    from diffusers import CosmosTransformer3DModel


def tune(network: CosmosTransformer3DModel, params: WorldModelParams, seed: int) -> CosmosTransformer3DModel:
    """The network, made ready to be trained as `params` say. Raises `BadInput` as `add_lora` does."""
    if params.tuning == "lora":
        add_lora(network, params.lora, seed)
    if params.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def add_lora(network: CosmosTransformer3DModel, lora: Lora, seed: int) -> None:
    """Freeze the network and add an adapter, which changes nothing before it is trained.

    Raises:
        BadInput: no layer has the name of a target.
    """
    from peft import LoraConfig

    # a pattern rather than a list, which peft makes a set and writes in an order of its own at every run
    pattern = rf"(.*\.)?({'|'.join(map(re.escape, lora.targets))})"
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern)
    names = [name for name, _ in network.named_modules()]
    for target in lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            expected = "the end of a layer's name, such as to_q or ff.net.2"
            raise BadInput("params.yaml", "world_model.lora.targets", target, expected, "correct it, or leave it out")
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config)


def save_adapter(network: CosmosTransformer3DModel, state: Mapping[str, Tensor], directory: Path) -> None:
    """Write the adapter of a state dict of `network` into a new directory, in peft's layout."""
    _with(network, state).save_lora_adapter(directory, safe_serialization=True)


def merge(network: CosmosTransformer3DModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a plain transformer that computes what `network` does with `state`; both stay as they are."""
    merged = _with(network, {name: value.clone() for name, value in state.items()})
    merged.fuse_lora()
    merged.unload_lora()
    return merged.state_dict()


def _with(network: CosmosTransformer3DModel, state: Mapping[str, Tensor]) -> CosmosTransformer3DModel:
    """A network of the same make that holds the tensors of `state` themselves."""
    with torch.device("meta"):
        carrier = type(network).from_config(network.config)
        for name, config in network.peft_config.items():
            carrier.add_adapter(config, adapter_name=name)
    carrier.load_state_dict(state, assign=True)
    return carrier
