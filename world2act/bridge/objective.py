"""Stage 1: labelled clips and what the frozen world model imagines for them → the shared space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world2act.bridge.adapters import Bridge
from world2act.bridge.contrast import Negatives, info_nce, similarity
from world2act.bridge.pairs import Pairs
from world2act.training.objective import BatchPosition, epoch_indices

Batch = tuple[Pairs, Tensor, Tensor]


class BridgeObjective:
    """L = reconstruction MSE + weight · bidirectional InfoNCE, padding masked in both (World2Act §3.2)."""

    def __init__(
        self,
        model: Bridge,
        pairs: Pairs,
        *,
        temperature: float,
        weight: float,
        hard_ratio: float,
        negatives: int,
        seed: int,
    ) -> None:
        self.model = model
        self._pairs, self._temperature, self._weight, self._seed = pairs, temperature, weight, seed
        self._negatives = Negatives(pairs.groups, hard_ratio, negatives, "artifacts/skills/skills.parquet")

    def batch(self, position: BatchPosition) -> Batch:
        anchors = epoch_indices(len(self._pairs.lengths), position, self._seed)
        negatives = self._negatives.draw(anchors, position.generators())
        rows, positions = torch.unique(torch.cat([anchors[:, None], negatives], dim=1), return_inverse=True)
        drawn = self._pairs.select(rows)
        moved = Pairs(
            drawn.latents.to(position.device),
            drawn.actions.to(position.device),
            drawn.lengths.to(position.device),
            drawn.groups,
        )
        positions = positions.to(position.device)
        return moved, positions[:, 0], positions[:, 1:]

    def loss(self, model: nn.Module, batch: Batch, position: BatchPosition) -> tuple[Tensor, dict[str, Tensor | float]]:
        pairs, anchors, negatives = batch
        z_video, z_action, decoded = model(pairs.latents, pairs.actions)
        real = torch.arange(pairs.actions.shape[1], device=position.device) < pairs.lengths[:, None]
        error = (decoded - self.model.normalise(pairs.actions)).square().mean((-2, -1))
        reconstruction = error[real].mean()
        contrastive = info_nce(z_video, z_action, pairs.lengths, pairs.lengths, anchors, negatives, self._temperature)
        cosine = similarity(z_video[anchors], z_action[anchors], pairs.lengths[anchors], pairs.lengths[anchors]).mean()
        metrics = {
            "reconstruction": reconstruction.detach(),
            "contrastive": contrastive.detach(),
            "cosine": cosine.detach(),
        }
        return reconstruction + self._weight * contrastive, metrics
