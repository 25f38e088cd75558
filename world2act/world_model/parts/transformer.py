"""`CosmosTransformer3DModel` of any size: drawn from a seed, or with weights from diffusers, NVIDIA or a hub.

Whatever the weights come from, the network is float32: it is what training keeps next to its bfloat16 arithmetic, and
what holds a bfloat16 checkpoint exactly.
"""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from world2act.core.errors import BadInput
from world2act.core.seeds import derive
from world2act.core.storage import read_json
from world2act.world_model.parts.checkpoint import assign_strictly, load_strictly, read_tensors
from world2act.world_model.parts.hub import locate

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

# not weights, but in NVIDIA's files: counters of their training, tables of the position code, TransformerEngine's
_NOT_WEIGHTS = re.compile(
    r"accum_(video_sample_counter|image_sample_counter|iteration|train_in_hours)"
    r"|pos_embedder\.(seq|dim_spatial_range|dim_temporal_range)"
    r"|.*\._extra_state"
)


class TransformerSizes(Protocol):
    """The sizes of a network, named as in params.yaml."""

    @property
    def heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def adaln_lora_dim(self) -> int: ...
    @property
    def patch_size(self) -> int: ...


class TransformerSource(TransformerSizes, Protocol):
    """A network and where its weights come from: the sections `world_model` and `base_policy.cosmos_policy`."""

    @property
    def weights(self) -> str | None: ...
    @property
    def parameters(self) -> int | None: ...
    @property
    def tuning(self) -> str: ...


def architecture(sizes: TransformerSizes, channels: int, text_dim: int) -> dict[str, Any]:
    """What `CosmosTransformer3DModel` is made of: Cosmos-Predict2 Video2World of the size in `sizes`.

    Args:
        channels: C of the latents; the condition mask is one more channel in, the padding mask is added inside.
        text_dim: D of the prompt embeddings.
    """
    return {
        "in_channels": channels + 1,
        "out_channels": channels,
        "num_attention_heads": sizes.heads,
        "attention_head_dim": sizes.head_dim,
        "num_layers": sizes.layers,
        "mlp_ratio": 4.0,
        "text_embed_dim": text_dim,
        "adaln_lora_dim": sizes.adaln_lora_dim,
        "max_size": (128, 240, 240),
        "patch_size": (1, sizes.patch_size, sizes.patch_size),
        "rope_scale": (1.0, 3.0, 3.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    }


def build_transformer(params: TransformerSource, channels: int, text_dim: int, seed: int) -> CosmosTransformer3DModel:
    """The network that `params` ask for, to be trained, with `params.weights` or weights drawn from `seed`.

    Raises:
        BadInput: weights are missing, damaged or of another architecture; the network has not `params.parameters`
            parameters; or there is nothing to train and nothing to start from.
    """
    wanted = architecture(params, channels, text_dim)
    if params.weights is None:
        if params.tuning == "none":
            remedy = "name weights, or train them (tuning: full)"
            raise BadInput("params.yaml", "world_model.tuning", "none, of random weights", "weights", remedy)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "transformer"))
            network = _model_class()(**wanted)
    elif Path(params.weights).is_file():
        network = load_nvidia_transformer(Path(params.weights), params, channels, text_dim)
    else:
        folder = locate(params.weights, "world_model.weights", ["transformer/*.json", "transformer/*.safetensors"])
        network = _load_diffusers(folder / "transformer", wanted)
    check_parameters(network, params.parameters)
    return network.requires_grad_(True)


def empty_transformer(sizes: TransformerSizes, channels: int, text_dim: int) -> CosmosTransformer3DModel:
    """A network without weights, on the meta device; `assign_strictly` fills it."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return _model_class()(**architecture(sizes, channels, text_dim))


def check_parameters(network: torch.nn.Module, expected: int | None) -> None:
    """Raises `BadInput` where `network` has another number of parameters than `expected`."""
    found = sum(weight.numel() for weight in network.parameters())
    if expected not in (None, found):
        remedy = "correct the size (heads, layers and so on), the latents' channels or the text dimension"
        raise BadInput("params.yaml", "world_model.parameters", f"{found:,}", f"{expected:,}", remedy)


def load_transformer(directory: str | Path) -> CosmosTransformer3DModel:
    """Open our own artifact, frozen. Raises `BadInput` as `load_strictly` does."""
    return load_strictly(_model_class(), Path(directory), "run the world_model stage")


def _load_diffusers(folder: Path, wanted: dict[str, Any]) -> CosmosTransformer3DModel:
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        found = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key in wanted}
        _compare(folder / "config.json", found, wanted)
    return load_strictly(_model_class(), folder, "correct world_model.weights")


class NvidiaSizes(TypedDict):
    """The sizes of a network in NVIDIA's layout, named as in params.yaml."""

    heads: int
    head_dim: int
    layers: int
    adaln_lora_dim: int
    patch_size: int
    channels: int
    text_dim: int


def nvidia_sizes(path: Path) -> NvidiaSizes:
    """The size of the network in NVIDIA's file `path`, named as in params.yaml, with `channels` and `text_dim`.

    Raises:
        BadInput: the file is missing, damaged or another model's.
    """
    found = _architecture_of(path, _nvidia_weights(path))
    return {
        "heads": found["num_attention_heads"],
        "head_dim": found["attention_head_dim"],
        "layers": found["num_layers"],
        "adaln_lora_dim": found["adaln_lora_dim"],
        "patch_size": found["patch_size"][1],
        "channels": found["out_channels"],
        "text_dim": found["text_embed_dim"],
    }


def _nvidia_weights(path: Path) -> dict[str, Tensor]:
    content = {key.removeprefix("net."): value for key, value in read_tensors(path).items()}
    return {key: value for key, value in content.items() if not _NOT_WEIGHTS.fullmatch(key)}


def load_nvidia_transformer(
    path: Path, sizes: TransformerSizes, channels: int, text_dim: int
) -> CosmosTransformer3DModel:
    """Open NVIDIA's layout: one file of tensors, each name prefixed by "net.".

    Raises:
        BadInput: the file is missing, damaged, another model's or a network of other sizes.
    """
    from diffusers.loaders.single_file_utils import convert_cosmos_transformer_checkpoint_to_diffusers

    weights = _nvidia_weights(path)
    _compare(path, _architecture_of(path, weights), architecture(sizes, channels, text_dim))
    converted = convert_cosmos_transformer_checkpoint_to_diffusers(dict(weights))
    if len(converted) != len(weights):
        # the converter drops every key with a known name in it; here a key is known as a whole or not at all
        raise BadInput(path, "", f"{len(weights)} weights", f"{len(converted)} known ones", "use NVIDIA's own file")
    return assign_strictly(empty_transformer(sizes, channels, text_dim), converted, path)


def _architecture_of(path: Path, weights: dict[str, Tensor]) -> dict[str, Any]:
    """What the shapes of NVIDIA's checkpoint say of its network."""
    block = "blocks.0.{}.weight".format
    try:
        shape = {key: tuple(value.shape) for key, value in weights.items()}
        width, inputs = shape["x_embedder.proj.1.weight"]
        outputs = shape["final_layer.linear.weight"][0]
        patch = (inputs - outputs) // 2  # the condition mask and the padding mask come in, and do not come out
        head_dim = shape[block("self_attn.q_norm")][0]
        return {
            "in_channels": inputs // patch - 1,
            "out_channels": outputs // patch,
            "num_attention_heads": width // head_dim,
            "attention_head_dim": head_dim,
            "num_layers": len({key.split(".")[1] for key in shape if key.startswith("blocks.")}),
            "mlp_ratio": shape[block("mlp.layer1")][0] / width,
            "patch_size": (1, isqrt(patch), isqrt(patch)),
            "text_embed_dim": shape[block("cross_attn.k_proj")][1],
            "adaln_lora_dim": shape[block("adaln_modulation_self_attn.1")][0],
        }
    except (KeyError, AttributeError, ValueError, IndexError, ZeroDivisionError) as error:
        expected = "Cosmos-Predict2 in NVIDIA's layout (net.blocks.0...)"
        raise BadInput(
            path, "", f"no such weights: {error}", expected, "use a model-*.pt of Cosmos-Predict2"
        ) from error


def _compare(where: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if other := [key for key in wanted if key in found and found[key] != wanted[key]]:
        said, expected = ({key: values[key] for key in other} for values in (found, wanted))
        remedy = "choose the profile of this checkpoint, with the VAE and the text encoder that it was trained with"
        raise BadInput(where, "", said, expected, remedy)


def _model_class() -> type[CosmosTransformer3DModel]:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

    _shim_torchvision()
    return CosmosTransformer3DModel


def _shim_torchvision() -> None:
    """Give diffusers the one torchvision function that Cosmos calls, where torchvision is not installed.

    The model resizes its padding mask with `torchvision.transforms.functional.resize`, nearest neighbour. The
    registries' torchvision is a CUDA build that breaks CPU torch, so it is left out of the lock file.
    """
    from diffusers.models.transformers import transformer_cosmos

    if hasattr(transformer_cosmos, "transforms"):
        return

    def resize(mask: Tensor, size: list[int], interpolation: str) -> Tensor:
        return F.interpolate(mask, size=size, mode=interpolation)

    vars(transformer_cosmos)["transforms"] = SimpleNamespace(
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )
