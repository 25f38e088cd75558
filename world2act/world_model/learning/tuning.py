"""What of the world model's transformer is trained: all of it, or low-rank adapters, by peft.

In: a transformer and the section `world_model` of params.yaml. Out: an adapter in peft's layout that diffusers opens
again (`load_lora_adapter`), and the weights of a plain transformer with the adapter merged into them, which every
consumer reads. `add_lora` and `merge` serve any module that has `from_config` and `config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.params import Lora
from world2act.core.seeds import derive

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel


class Tuning(Protocol):
    """What of a network is trained: the sections `world_model` and `base_policy.cosmos_policy`."""

    @property
    def tuning(self) -> str: ...
    @property
    def lora(self) -> Lora: ...
    @property
    def gradient_checkpointing(self) -> bool: ...


def tune(network: CosmosTransformer3DModel, params: Tuning, seed: int) -> CosmosTransformer3DModel:
    """The network, made ready to be trained as `params` say. Raises `BadInput` as `add_lora` does."""
    if params.tuning == "lora":
        add_lora(network, params.lora, seed)
    if params.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def add_lora(network: nn.Module, lora: Lora, seed: int, key: str = "world_model.lora") -> None:
    """Freeze the network and add an adapter, which changes nothing before it is trained.

    Args:
        key: the key of params.yaml that holds `lora`.

    Raises:
        BadInput: no layer has the name of a target.
    """
    from peft import LoraConfig, inject_adapter_in_model

    # a pattern rather than a list, which peft makes a set and writes in an order of its own at every run
    pattern = rf"(.*\.)?({'|'.join(map(re.escape, lora.targets))})"
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft's annotation says int; it divides, and takes any number
        lora_dropout=lora.dropout,
        target_modules=pattern,
    )
    names = [name for name, _ in network.named_modules()]
    for target in lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            expected = "the end of a layer's name, such as to_q or ff.net.2"
            raise BadInput("params.yaml", f"{key}.targets", target, expected, "correct it, or leave it out")
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapters"))
        inject_adapter_in_model(config, network)


def save_adapter(network: nn.Module, state: Mapping[str, Tensor], directory: Path) -> None:
    """Write the adapter of a state dict of `network` into a new directory, in peft's layout."""
    _with(network, state).save_lora_adapter(directory, safe_serialization=True)


def merge(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a plain network that computes what `network` does with `state`; both stay as they are."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = _with(network, {name: value.clone() for name, value in state.items()})
    for layer in merged.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    weights = merged.state_dict().items()
    return {name.replace(".base_layer.", "."): value for name, value in weights if ".lora_" not in name}


def _with(network: nn.Module, state: Mapping[str, Tensor]) -> Any:
    """A network of the same make that holds the tensors of `state` themselves."""
    from peft import inject_adapter_in_model

    source: Any = network
    with torch.device("meta"):
        carrier = type(source).from_config(source.config)
        for name, config in source.peft_config.items():
            inject_adapter_in_model(config, carrier, name)
    carrier.load_state_dict(state, assign=True)
    return carrier
