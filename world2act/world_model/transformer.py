"""`CosmosTransformer3DModel`: made tiny, or opened by path with strict keys."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from world2act.errors import BadInput
from world2act.params import WorldModel as WorldModelParams
from world2act.world_model.checkpoint import load_strictly

if TYPE_CHECKING:
    from diffusers import CosmosTransformer3DModel


def make_transformer(params: WorldModelParams, channels: int, text_dim: int, seed: int) -> CosmosTransformer3DModel:
    """A Cosmos-Predict2 Video2World transformer of the size in `params`, weights drawn from `seed`.

    Args:
        channels: C of the latents; the condition mask is one more channel in, the padding mask is added inside.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _model_class()(
            in_channels=channels + 1,
            out_channels=channels,
            num_attention_heads=params.heads,
            attention_head_dim=params.head_dim,
            num_layers=params.layers,
            mlp_ratio=4.0,
            text_embed_dim=text_dim,
            adaln_lora_dim=params.adaln_lora_dim,
            max_size=(128, 240, 240),
            patch_size=(1, 2, 2),
            rope_scale=(1.0, 3.0, 3.0),
            concat_padding_mask=True,
            extra_pos_embed_type=None,
        )


def load_transformer(directory: str | Path) -> CosmosTransformer3DModel:
    """Open a diffusers folder, frozen. Raises `BadInput` as `load_strictly` does."""
    return load_strictly(_model_class(), Path(directory), "run the world_model stage, or correct world_model.source")


def import_transformer(folder: str | Path, channels: int, text_dim: int) -> CosmosTransformer3DModel:
    """Open `folder`/transformer for latents of `channels` and prompt embeddings of `text_dim`.

    Raises:
        BadInput: as `load_strictly`, or the transformer was made for others.
    """
    network = load_transformer(Path(folder) / "transformer")
    made_for = {"latent channels": network.config.in_channels - 1, "text dimension": network.config.text_embed_dim}
    given = {"latent channels": channels, "text dimension": text_dim}
    if made_for != given:
        remedy = "import the VAE and text encoder that it was trained with (tokenizer.source)"
        raise BadInput(f"{folder}/transformer/config.json", "", made_for, given, remedy)
    return network


def _model_class() -> type[CosmosTransformer3DModel]:
    from diffusers import CosmosTransformer3DModel

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

    transformer_cosmos.transforms = SimpleNamespace(
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )
