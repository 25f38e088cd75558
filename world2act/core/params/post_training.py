"""The section `post_train` of params.yaml."""

from __future__ import annotations

from world2act.core.params.base import Training
from world2act.core.params.section import Count, Positive, Section, Share


class PostTrain(Section):
    """`training.batch_size` is the number of parallel environments of all ranks."""

    updates_per_rollout: Count
    max_chunks: Count
    heads: Count
    layers: Count
    temperature: Positive
    hard_ratio: Share
    training: Training
