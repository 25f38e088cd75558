"""The contrastive objective of both stages: chunk-wise similarity, negatives at a hard ratio, two directions.

Source: World2Act §3.2 and its ablation of the objective (chunk-wise and bidirectional is the best of four).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from world2act.core.errors import BadInput


def similarity(z_video: Tensor, z_action: Tensor, lengths_video: Tensor, lengths_action: Tensor) -> Tensor:
    """Mean over time of the cosine of time-matched chunks; what is beyond either length does not count.

    Args:
        z_video, z_action: (..., T, D), broadcastable, padded.
        lengths_video, lengths_action: int (...), at least 1.

    Returns:
        (...), each in [-1, 1].
    """
    cosine = functional.cosine_similarity(z_video, z_action, dim=-1)
    lengths = torch.minimum(lengths_video, lengths_action)
    matched = torch.arange(cosine.shape[-1], device=cosine.device) < lengths[..., None]
    return (cosine * matched).sum(-1) / lengths


def info_nce(
    z_video: Tensor,
    z_action: Tensor,
    lengths_video: Tensor,
    lengths_action: Tensor,
    anchors: Tensor,
    negatives: Tensor,
    temperature: float,
) -> Tensor:
    """Bidirectional InfoNCE: a video against its own and other actions, an action against its own and other videos.

    Args:
        z_video, z_action: (N, T, D) tokens of N pairs. lengths_*: int (N,).
        anchors: int (B,), rows of the pairs that are compared. negatives: int (B, K), rows of their negatives.

    Returns:
        The scalar mean of both directions.
    """
    candidates = torch.cat([anchors[:, None], negatives], dim=1)
    video_to_action = similarity(
        z_video[anchors, None], z_action[candidates], lengths_video[anchors, None], lengths_action[candidates]
    )
    action_to_video = similarity(
        z_video[candidates], z_action[anchors, None], lengths_video[candidates], lengths_action[anchors, None]
    )
    targets = torch.zeros(len(anchors), dtype=torch.long, device=z_video.device)
    return (
        functional.cross_entropy(video_to_action / temperature, targets)
        + functional.cross_entropy(action_to_video / temperature, targets)
    ) / 2


class Negatives:
    """Draws negatives at a fixed share of hard ones.

    Hard: the same group (a skill in stage 1, a task in stage 2), another member. Easy: another group. Every
    anchor gets the same K, the largest at which the share holds exactly for the smallest group.

    Raises:
        BadInput: a group has one member only, or there is one group only. Nothing is ever cloned to fill up.
    """

    def __init__(self, groups: Sequence[str], hard_ratio: float, limit: int, where: str) -> None:
        names = sorted(set(groups))
        self._groups = torch.tensor([names.index(group) for group in groups])
        sizes = torch.bincount(self._groups)
        if hard_ratio > 0 and int(sizes.min()) < 2:
            raise BadInput(
                where,
                names[int(sizes.argmin())],
                "one episode of this group",
                "at least two",
                "add demonstrations of it",
            )
        if hard_ratio < 1 and len(names) < 2:
            raise BadInput(where, names[0], "the only group", "at least two", "add another, or set hard_ratio to 1")
        most_hard, most_easy = int(sizes.min()) - 1, len(groups) - int(sizes.max())
        counts = [
            (hard, total - hard)
            for total in range(1, limit + 1)
            if abs((hard := round(hard_ratio * total)) - hard_ratio * total) < 1e-9
            and hard <= most_hard
            and total - hard <= most_easy
        ]
        if not counts:
            raise BadInput(
                where,
                "hard_ratio",
                hard_ratio,
                f"a share that {most_hard} hard and {most_easy} easy negatives can give, at most {limit}",
                "choose such a share, or add demonstrations",
            )
        self.hard, self.easy = counts[-1]

    def draw(self, anchors: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """int (B, hard + easy): distinct rows, hard ones first, never the anchor's own; one generator per anchor."""
        return torch.stack([self._draw_one(int(a), each) for a, each in zip(anchors, generators, strict=True)])

    def _draw_one(self, anchor: int, generator: torch.Generator) -> Tensor:
        same = self._groups == self._groups[anchor]
        easy = (~same).nonzero().squeeze(1)
        same[anchor] = False
        hard = same.nonzero().squeeze(1)
        picks = [
            pool[torch.randperm(len(pool), generator=generator)[:n]]
            for pool, n in ((hard, self.hard), (easy, self.easy))
        ]
        return torch.cat(picks)
