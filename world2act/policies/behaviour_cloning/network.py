"""The network of behaviour cloning: images, proprioception and an instruction → a normalised action chunk.

Convolutions make a feature map, which becomes one token in two ways: cell by cell, so that an object of a few pixels
and little contrast is not lost, and as points (spatial softmax; Levine et al. 2016), so that what is learnt at one
position holds at another. A transformer reads it with the proprioception and the words, and has one query per action.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    """Every dimension of the network, as config.json holds them."""

    cameras: tuple[str, ...]
    image_size: int
    proprio_dim: int
    action_dim: int
    chunk_length: int
    vocabulary: int
    channels: tuple[int, ...]
    dim: int
    layers: int
    heads: int


class Network(nn.Module):
    """In normalised units; pixels are uint8."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, sizes: Sizes, map_dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        widths, dim = (3, *sizes.channels), sizes.dim
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, k, stride=s, padding=k // 2), PixelNorm(o), nn.ReLU())
            for i, o, k, s in zip(widths, sizes.channels, chain([5], repeat(3)), chain([2, 2], repeat(1)), strict=False)
        ]
        cameras, side = len(sizes.cameras), sizes.image_size
        # the mean picture of a fixed camera spares the convolutions the learning of its background
        self.register_buffer("pixel_mean", torch.full((cameras, 3, side, side), 127.5))
        self.register_buffer("pixel_std", torch.full((cameras, 1, 1, 1), 127.5))
        self.convolutions = nn.Sequential(*blocks)
        for _ in sizes.channels[:2]:
            side = (side + 1) // 2
        self.dropout = nn.Dropout(map_dropout)
        self.map = nn.Linear(widths[-1] * side * side, dim)
        self.points = nn.Linear(2 * widths[-1], dim)
        self.camera = nn.Parameter(torch.randn(cameras, dim) * 0.02)
        self.proprio = nn.Linear(sizes.proprio_dim, dim)
        self.words = nn.Embedding(sizes.vocabulary, dim)
        self.queries = nn.Parameter(torch.randn(sizes.chunk_length, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, sizes.heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)
        self.action = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, sizes.action_dim))

    def forward(self, images: Tensor, proprio: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """The normalised chunk (B, M, A).

        Args:
            images: uint8 (B, V, 3, S, S). proprio: normalised (B, P). words: int64 (B, L), true in `word_mask`.
        """
        pixels = ((images - self.pixel_mean) / self.pixel_std).flatten(0, 1)
        # channels last: no copy for the norms
        maps = self.convolutions(pixels.contiguous(memory_format=torch.channels_last))
        pictures = self.map(self.dropout(maps.flatten(1))) + self.points(_spatial_softmax(maps))
        pictures = pictures.unflatten(0, images.shape[:2]) + self.camera
        queries = self.queries.expand(len(images), -1, -1)
        tokens = torch.cat([queries, pictures, self.proprio(proprio)[:, None], self.words(words)], 1)
        padding = F.pad(~word_mask, (tokens.shape[1] - words.shape[1], 0))
        hidden = self.transformer(tokens, src_key_padding_mask=padding)
        return self.action(hidden[:, : queries.shape[1]])


def _spatial_softmax(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 2C): where each channel's softmax over the picture has its mean, in [-1, 1]."""
    weights = maps.flatten(2).softmax(-1).unflatten(-1, maps.shape[2:])
    y, x = (torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[2:])
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], 1)


class PixelNorm(nn.LayerNorm):
    """Over the channels of each pixel (N, C, H, W), so that the arm's strong edges do not drown a faint object."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
