"""Latents of a Cosmos Policy's made-up video: pictures in, latent frames out.

The video begins with frames that are black in every sample, and the VAE is causal: what it remembers after them is
computed once, and an encoding begins at the first picture. The latents are those of the whole video up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.policies.cosmos_policy.layout import Frame, Layout
from world2act.world_model.parts.tokenizer import VideoTokenizer, to_video


class PictureEncoder:
    """Encodes the pictures of one layout, `side` pixels a side."""

    def __init__(self, tokenizer: VideoTokenizer, layout: Layout, side: int) -> None:
        self._tokenizer, self._layout = tokenizer, layout
        self._first = next(index for index, frame in enumerate(layout.frames) if frame.kind == "image")
        self._black = torch.zeros(1, side, side, 3, dtype=torch.uint8)
        self._memory = tokenizer.empty_memory()
        self._blank = self._encode(self._black, 1, self._memory)
        for _ in range(1, self._first):
            self._encode(self._black, FRAMES_PER_LATENT, self._memory)

    def encode(self, pictures: Mapping[Frame, Tensor]) -> dict[int, Tensor]:
        """The latent frames (B, C, h, w) of the blank and of `pictures`, uint8 (B, S, S, 3), by index in the layout."""
        batch = len(next(iter(pictures.values())))
        last = max(self._layout.frames.index(frame) for frame in pictures)
        memory = [kept.expand(batch, *kept.shape[1:]) if isinstance(kept, Tensor) else kept for kept in self._memory]
        latents = {0: self._blank.expand(batch, -1, -1, -1)}
        for index in range(self._first, last + 1):
            frame = self._layout.frames[index]
            picture = pictures.get(frame, self._black.expand(batch, -1, -1, -1))
            latent = self._encode(picture, FRAMES_PER_LATENT, memory)
            if frame in pictures:
                latents[index] = latent
        return latents

    def _encode(self, picture: Tensor, copies: int, memory: list[Any]) -> Tensor:
        video = to_video(picture[:, None]).expand(-1, -1, copies, -1, -1)
        return self._tokenizer.encode_next(video, memory)[:, 0]
