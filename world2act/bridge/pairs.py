"""Time-matched pairs of imagined latents and demonstrated actions, a pair a labelled skill clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """N clips, padded to the longest.

    Attributes:
        latents: float32 (N, T, C, H, W), generated, without the conditioning latent.
        actions: float32 (N, T, M, A) in environment units; chunk t caused latent t of `latents`.
        lengths: int64 (N,), chunks that are real.
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


def action_chunks(actions: np.ndarray, start: int, end: int, chunk_length: int) -> np.ndarray:
    """Cut the actions that cause the latents of the clip `start..end` into chunks.

    Chunk j holds actions `start + 4j .. start + 4j + 3`, which lead to the frames of latent j + 1: latent 0 is the
    conditioning frame and has no chunk.

    Args:
        actions: (T, A) of the whole episode.

    Returns:
        ((end - start) / chunk_length, chunk_length, A).
    """
    count, rest = divmod(end - start, chunk_length)
    if rest or count < 1:
        raise ValueError(f"clip {start}..{end} is not a whole number of chunks of {chunk_length}")
    return actions[start:end].reshape(count, chunk_length, -1)


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
