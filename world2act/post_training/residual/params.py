"""The parameters of the residual method, and the limits of its gate."""

from __future__ import annotations

from world2act.core.params.section import Count, Positive, Section, Share


class Parameters(Section):
    """`post_train.residual`; `post_train.training.batch_size` is the number of parallel environments of all ranks.

    Attributes:
        updates_per_rollout: optimiser steps on the episodes of one rollout.
        max_chunks: action chunks per episode, at most.
        heads, layers: of the attention over base action, proprioception and image.
        temperature: of the contrastive loss.
        hard_ratio: the share of negatives that come from the same task.
    """

    updates_per_rollout: Count
    max_chunks: Count
    heads: Count
    layers: Count
    temperature: Positive
    hard_ratio: Share


class Limits(Section):
    """`gates.post_train.residual`.

    Attributes:
        residual: the mean magnitude of the residual action, at most.
        cosine_drop: how much the cosine may fall from start to end.
    """

    residual: Positive
    cosine_drop: Positive
