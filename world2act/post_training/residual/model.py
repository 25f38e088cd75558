"""f_θ: base action chunk, proprioception and image → residual action chunk.

Source: World2Act (arXiv 2603.10422) §3.3; the sizes are the paper's. Where the paper leaves the start of training
open, f_θ starts as zero: the last layer of its MLP is zero and the decoder's answer to a zero token is subtracted,
so that the post-trained policy begins as the base policy and not as the base plus a mean action.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from world2act.bridge.adapters import Bridge


class ResidualModel(nn.Module):
    """The trainable residual, around a frozen action adapter.

    Args:
        bridge: the result of stage 1; its B_a stays frozen, and a copy of its D_a is trained further.
        proprio_dim: P. image_size: pixels per side of the (square) image.
    """

    def __init__(self, bridge: Bridge, *, proprio_dim: int, image_size: int, layers: int, heads: int) -> None:
        super().__init__()
        dim = bridge.config["dim"]
        self.image_size, self.heads = image_size, heads
        self.bridge = bridge
        self.decoder = copy.deepcopy(bridge.action_decoder).requires_grad_(True)
        self.proprio = nn.Sequential(nn.Linear(proprio_dim, 128), nn.ReLU(), nn.Linear(128, dim), nn.LayerNorm(dim))
        convolutions = nn.Sequential(
            nn.Conv2d(3, 16, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        # 6272 at the paper's 256 pixels
        features = convolutions(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.image = nn.Sequential(convolutions, nn.Linear(features, dim), nn.LayerNorm(dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.attention = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        first, last = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.head = nn.Sequential(first, nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # the decoder's answer to a zero token, once it is frozen
        self.rest: Tensor | None
        self.register_buffer("rest", None, persistent=False)

    @torch.no_grad()
    def freeze(self) -> Self:
        """End training: what does not depend on the input is computed once."""
        self.eval().requires_grad_(False)
        weight = next(self.head.parameters())
        self.rest = self.decoder(weight.new_zeros(1, weight.shape[0]))
        return self

    def forward(self, base_actions: Tensor, proprio: Tensor, image: Tensor) -> Tensor:
        """Residual actions.

        Args:
            base_actions: (B, M, A) in environment units. proprio: (B, P), normalised. image: uint8 (B, H, W, 3).

        Returns:
            (B, M, A) in environment units, to be added to `base_actions`.
        """
        action_token = self.bridge.action_adapter(self.bridge.normalise(base_actions))
        pixels = image.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        tokens = torch.stack([action_token, self.proprio(proprio), self.image(pixels)], dim=1)
        token = self.head(self.attention(tokens)[:, 0])
        # during training with as many rows as `token`, so that the residual starts at exactly zero
        rest = self.decoder(torch.zeros_like(token)) if self.rest is None else self.rest
        return (self.decoder(token) - rest) * self.bridge.action_std
