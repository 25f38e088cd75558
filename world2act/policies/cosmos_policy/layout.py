"""Which latent frame holds what: the one table of Cosmos Policy, and how numbers are written into a latent frame.

A Cosmos Policy is a video model whose video is made up: the first pixel frame is blank, and each further item is four
equal pixel frames, one latent frame of the causal VAE. The latents of what is no picture are overwritten: actions and
proprioception by their numbers, over and over; the value by a constant frame.

Source: Cosmos Policy (NVIDIA, 2026). Shapes: latents (B, C, T, h, w), one latent frame (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from world2act.core.errors import BadInput

Role = Literal["policy", "world_model", "value"]
Kind = Literal["blank", "proprio", "image", "action", "value"]


@dataclass(frozen=True)
class Frame:
    """What one latent frame holds. `future`: as it is when the action chunk has been executed."""

    kind: Kind
    camera: str = ""
    future: bool = False


@dataclass(frozen=True)
class Layout:
    """The frames in their order, of which the first `given` are known when the policy acts."""

    frames: tuple[Frame, ...]
    given: int

    @property
    def cameras(self) -> tuple[str, ...]:
        """The layout's names of the cameras, in the order of their frames."""
        return tuple(frame.camera for frame in self.frames[: self.given] if frame.kind == "image")

    def index(self, kind: Kind, *, camera: str = "", future: bool = False) -> int:
        return self.frames.index(Frame(kind, camera, future))

    def known(self, role: Role) -> list[bool]:
        """Which frames condition: the policy is given the present, the world model the actions besides, and the value
        all that comes before it."""
        given = {"policy": self.given, "world_model": self.index("action") + 1, "value": self.index("value")}[role]
        return [i < given for i in range(len(self.frames))]

    def to_list(self) -> list[dict[str, Any]]:
        return [asdict(frame) for frame in self.frames]

    @classmethod
    def from_list(cls, frames: Sequence[Mapping[str, Any]], given: int) -> Self:
        return cls(tuple(Frame(**frame) for frame in frames), given)


def layout_of(cameras: Sequence[str]) -> Layout:
    """The present, then what the policy makes: actions, the future, its value."""
    views = [Frame("image", camera) for camera in cameras]
    future = [Frame("image", camera, True) for camera in cameras]
    present = (Frame("blank"), Frame("proprio"), *views)
    return Layout((*present, Frame("action"), Frame("proprio", future=True), *future, Frame("value")), len(present))


def inject(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Numbers (B, ...) → a latent frame (B, C, h, w): flattened, and repeated until it is full."""
    flat, size = values.flatten(1), torch.Size(shape).numel()
    if flat.shape[1] > size:
        found, remedy = f"{flat.shape[1]} numbers", "shorten base_policy.chunk_length, or use larger pictures"
        raise BadInput(
            "params.yaml", "base_policy.chunk_length", found, f"at most the {size} of a latent frame", remedy
        )
    return flat[:, torch.arange(size, device=flat.device) % flat.shape[1]].view(-1, *shape)


def extract(frame: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `inject`: the mean of all whole copies in (B, C, h, w), as (B, *shape)."""
    flat, size = frame.flatten(1), torch.Size(shape).numel()
    copies = flat.shape[1] // size
    return flat[:, : copies * size].view(len(flat), copies, *shape).mean(1)


def inject_value(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Values (B,) in [0, 1] → constant frames in [-1, 1]."""
    return (2 * value - 1).view(-1, 1, 1, 1).expand(-1, *shape)


def extract_value(frame: Tensor) -> Tensor:
    """The inverse of `inject_value`, clamped."""
    return ((frame.flatten(1).mean(1) + 1) / 2).clamp(0, 1)
