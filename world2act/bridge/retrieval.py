"""Does the shared space find a clip's own actions? Ranks on held-out clips, compared with chance."""

from __future__ import annotations

import torch

from world2act.bridge.adapters import Bridge
from world2act.bridge.contrast import similarity
from world2act.bridge.pairs import Pairs
from world2act.bridge.rows import RetrievalRow


@torch.no_grad()
def retrieval_ranks(bridge: Bridge, pairs: Pairs) -> list[RetrievalRow]:
    """For each clip, the rank of its own actions among all clips' and among those of its own skill; 1 is best."""
    z_video, z_action, _ = bridge(pairs.latents, pairs.actions)
    scores = similarity(z_video[:, None], z_action[None], pairs.lengths[:, None], pairs.lengths[None])
    rows = []
    for i, prompt in enumerate(pairs.groups):
        same = torch.tensor([group == prompt for group in pairs.groups])
        as_good = scores[i] >= scores[i, i]  # itself included, so a tie counts against it
        rows.append(
            RetrievalRow(
                prompt=prompt,
                rank=int(as_good.sum()),
                candidates=len(same),
                rank_same_skill=int((as_good & same).sum()),
                candidates_same_skill=int(same.sum()),
                cosine=float(scores[i, i]),
            )
        )
    return rows


def summarise(ranked: list[RetrievalRow]) -> dict[str, float | int]:
    """Retrieval at 1 and its chance, among all held-out clips and within one skill, and the mean cosine."""
    count = len(ranked)
    top1 = sum(row.rank == 1 for row in ranked) / count
    chance = sum(1 / row.candidates for row in ranked) / count
    top1_skill = sum(row.rank_same_skill == 1 for row in ranked) / count
    chance_skill = sum(1 / row.candidates_same_skill for row in ranked) / count
    return {
        "heldout_clips": count,
        "retrieval_top1": top1,
        "retrieval_chance": chance,
        "retrieval_over_chance": top1 / chance,
        "retrieval_top1_same_skill": top1_skill,
        "retrieval_chance_same_skill": chance_skill,
        "cosine": sum(row.cosine for row in ranked) / count,
    }
