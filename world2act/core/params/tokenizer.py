"""The sections `tokenizer` and `latents` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from world2act.core.params.base import Training
from world2act.core.params.section import Count, Section, Share


class Tokenizer(Section):
    """source: "train", or where the VAE and the text encoder come from. vae, text_encoder: each from elsewhere."""

    source: str
    vae: str | None
    text_encoder: str | None
    base_dim: Count
    dim_mult: list[int]
    num_res_blocks: Count
    patch_size: Annotated[int, Field(ge=1)]
    latent_channels: Count
    kl_weight: Annotated[float, Field(ge=0)]
    clip_frames: Count
    image_share: Share
    foreground_weight: Annotated[float, Field(ge=0)]
    text_dim: Count
    text_layers: Count
    text_length: Count
    training: Training


class Latents(Section):
    batch_size: Count
