"""The GR00T-N1.6 family (family "gr00t"): SigLIP2 and Qwen3 features, actions by flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from world2act.policies.gr00t.policy import Gr00tPolicy, from_pretrained

if TYPE_CHECKING:
    from world2act.core.params import BasePolicy
    from world2act.data.chunks import ChunkDataset
    from world2act.data.lerobot_v3 import EpisodeDataset
    from world2act.policies.gr00t.objective import ImitationObjective

__all__ = ["Gr00tPolicy", "from_pretrained", "make_objective"]
SUMMARY = "vision-language features, actions by flow matching (GR00T-N1.6)"


def make_objective(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> ImitationObjective:
    """See `world2act.policies.imitation.Family`."""
    from world2act.policies.gr00t.objective import ImitationObjective

    return ImitationObjective(params, dataset, chunks, seed)
