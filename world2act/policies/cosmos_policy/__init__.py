"""The Cosmos Policy family (family "cosmos_policy"): a video model whose video holds actions, proprioception, pictures
and value as latent frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from world2act.policies.cosmos_policy.policy import CosmosPolicy, from_pretrained

if TYPE_CHECKING:
    from world2act.core.params import BasePolicy
    from world2act.data.chunks import ChunkDataset
    from world2act.data.lerobot_v3 import EpisodeDataset
    from world2act.policies.cosmos_policy.objective import CosmosPolicyObjective

__all__ = ["CosmosPolicy", "from_pretrained", "make_objective"]
SUMMARY = "a video model that denoises actions, future and value as latent frames (Cosmos Policy)"


def make_objective(
    params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int
) -> CosmosPolicyObjective:
    """See `world2act.policies.imitation.Family`."""
    from world2act.policies.cosmos_policy.objective import CosmosPolicyObjective

    return CosmosPolicyObjective(params, dataset, chunks, seed)
