"""Time-matched pairs of imagined latents and demonstrated actions, one pair per labelled skill clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT, latents_of


@dataclass(frozen=True)
class Pairs:
    """N clips, padded to the longest.

    Attributes:
        latents: float32 (N, T, C, H, W), generated, without the conditioning latent.
        actions: float32 (N, T, M, A) in environment units; chunk t caused latent t of `latents`.
        lengths: int64 (N,), the number of real chunks.
        groups: the prompt of each clip: clips of one prompt show one skill.
    """

    latents: Tensor
    actions: Tensor
    lengths: Tensor
    groups: list[str]

    def select(self, rows: Tensor | Sequence[int]) -> Pairs:
        rows = torch.as_tensor(rows)
        return Pairs(
            self.latents[rows], self.actions[rows], self.lengths[rows], [self.groups[i] for i in rows.tolist()]
        )


def action_chunks(actions: np.ndarray, start: int, end: int) -> np.ndarray:
    """Cut the actions that caused the latents of the clip `start..end` into chunks, one per latent but the first.

    Chunk j caused the frames of latent j + 1 (`world2act.core.latent_time`).

    Args:
        actions: (T, A) of the whole episode.

    Returns:
        (latents - 1, FRAMES_PER_LATENT, A).

    Raises:
        BadInput: the clip is not cut on the latents' grid, or is a single frame.
    """
    count = latents_of(end - start + 1) - 1
    if not count:
        found, remedy = f"frames {start}..{end}", "cut longer clips (skills stage)"
        raise BadInput("a clip", "frames", found, "a latent after the first one", remedy)
    return actions[start:end].reshape(count, FRAMES_PER_LATENT, -1)


def pad_pairs(latents: Sequence[np.ndarray], chunks: Sequence[np.ndarray], groups: Sequence[str]) -> Pairs:
    """Stack clips, zero-padded at the end; `lengths` says what is real.

    Args:
        latents: per clip (1 + T_i, C, H, W), the conditioning latent first. chunks: per clip (T_i, M, A).
    """
    for clip, chunk in zip(latents, chunks, strict=True):
        if len(clip) != len(chunk) + 1:
            raise ValueError(f"{len(clip)} latents, the conditioning one included, do not match {len(chunk)} chunks")
    longest = max(map(len, chunks))

    def pad(arrays: Sequence[np.ndarray]) -> Tensor:
        padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), np.float32)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(padded)

    lengths = torch.tensor([len(chunk) for chunk in chunks])
    return Pairs(pad([clip[1:] for clip in latents]), pad(chunks), lengths, list(groups))
