"""The section `bridge` of params.yaml."""

from __future__ import annotations

from world2act.core.params.base import Sampler, Training
from world2act.core.params.section import Count, Positive, Section, Share


class Bridge(Section):
    dim: Count
    temperature: Positive
    contrastive_weight: Positive
    hard_ratio: Share
    negatives: Count
    sampler: Sampler
    training: Training
