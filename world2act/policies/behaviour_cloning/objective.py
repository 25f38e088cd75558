"""Imitation by squared error: frames of the training split → the difference from the demonstrated actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy
from world2act.core.seeds import derive
from world2act.core.storage import write_json
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.behaviour_cloning.network import Network, Sizes
from world2act.policies.behaviour_cloning.params import Parameters
from world2act.policies.dataset import image_side, mean_image
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax, write_statistics
from world2act.policies.weights import save_weights
from world2act.policies.word_tokenizer import make_tokenizer, tokenize
from world2act.training.objective import BatchPosition, draw, epoch_indices

FAMILY = "behaviour_cloning"


@dataclass(frozen=True)
class Batch:
    images: Tensor
    proprio: Tensor
    words: Tensor
    word_mask: Tensor
    actions: Tensor
    real: Tensor


class CloningObjective:
    """Frames of the training split → squared error over the actions that exist."""

    reads = ""

    def __init__(self, params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> None:
        block = params.block(Parameters)
        if block.dim % block.heads:
            where = "base_policy.behaviour_cloning.dim"
            raise BadInput("params.yaml", where, block.dim, f"a multiple of heads, {block.heads}", "round it")
        self.tokenizer = make_tokenizer(chunks.instructions)
        self.statistics = {ACTION: MinMax.of(chunks.actions), PROPRIO: MinMax.of(chunks.proprio)}
        sizes = Sizes(
            cameras=tuple(dataset.cameras),
            image_size=image_side(dataset),
            proprio_dim=chunks.proprio.shape[1],
            action_dim=chunks.actions.shape[1],
            chunk_length=params.chunk_length,
            vocabulary=len(self.tokenizer),
            channels=tuple(block.channels),
            dim=block.dim,
            layers=block.layers,
            heads=block.heads,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "behaviour cloning"))
            self.model: Network = Network(sizes, block.map_dropout)
        self._chunks, self._seed, self._dropout = chunks, seed, block.proprio_dropout
        for camera, frames in enumerate(chunks.cameras):
            self.model.pixel_mean[camera], self.model.pixel_std[camera] = mean_image(frames, chunks.rows)
        self._proprio = torch.from_numpy(self.statistics[PROPRIO].normalise(chunks.proprio))
        self._words, self._word_mask = tokenize(self.tokenizer, chunks.instructions)

    def batch(self, position: BatchPosition) -> Batch:
        rows = epoch_indices(len(self._chunks), position, self._seed)
        actions, real = self._chunks.chunks(rows.numpy(), self.model.sizes.chunk_length)
        images = torch.from_numpy(self._chunks.images(rows.numpy())).permute(0, 1, 4, 2, 3)
        instruction = torch.from_numpy(self._chunks.instruction)[rows]
        batch = Batch(
            images=images.contiguous(),
            proprio=self._proprio[rows] * (draw(position.generators(), "rand", 1) >= self._dropout),
            words=self._words[instruction],
            word_mask=self._word_mask[instruction],
            actions=torch.from_numpy(self.statistics[ACTION].normalise(actions)),
            real=torch.from_numpy(real),
        )
        return Batch(**{key: value.to(position.device) for key, value in vars(batch).items()})

    def loss(self, model: nn.Module, batch: Batch, position: BatchPosition) -> tuple[Tensor, dict[str, Tensor | float]]:
        actions = model(batch.images, batch.proprio, batch.words, batch.word_mask)
        return (actions - batch.actions)[batch.real].square().mean(), {}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        write_json(directory / "config.json", {"family": FAMILY, **asdict(self.model.sizes)})
        save_weights(directory / "model.safetensors", weights)
        write_statistics(directory / "statistics.json", self.statistics)
        self.tokenizer.save_pretrained(directory / "tokenizer")


def make_objective(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> CloningObjective:
    """See `world2act.policies.imitation.Trainable`."""
    return CloningObjective(params, dataset, chunks, seed)
