"""The section `evaluate` of params.yaml."""

from __future__ import annotations

from world2act.core.params.section import Count, Section, Share


class Evaluate(Section):
    environments: Count
    max_steps: Count
    confidence: Share
    videos_per_task: Count
    video_size: Count
