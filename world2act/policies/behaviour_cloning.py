"""Family "behaviour_cloning": pictures, proprioception and words → an action chunk, by squared error.

Convolutions, whose map is one token: cell by cell, so that an object of a few pixels and little contrast is not lost,
and as points (spatial softmax; Levine et al. 2016), so that what is learnt in one place holds in another. A transformer
over it, the proprioception and the words, with one query an action of the chunk. No noise and no iteration: the chunk
is the mean of what was demonstrated. Nothing else in the project names this module: it is what a family of someone
else's needs to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from world2act.core.device import best_device
from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy
from world2act.core.seeds import derive
from world2act.core.storage import read_json, write_json
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.dataset import image_side, mean_image
from world2act.policies.normalisation import ACTION, PROPRIO, MinMax, read_statistics, write_statistics
from world2act.policies.observations import stack_images, stack_proprio
from world2act.policies.weights import load_weights, save_weights
from world2act.policies.word_tokenizer import make_tokenizer, read_tokenizer, tokenize
from world2act.sims.base import Observation
from world2act.training.objective import Place, draw, epoch_indices

FAMILY = "behaviour_cloning"
SUMMARY = "convolutions and a transformer, squared error"


@dataclass(frozen=True)
class Sizes:
    """Every dimension of the network: what stands in config.json."""

    cameras: tuple[str, ...]
    image_size: int
    proprio_dim: int
    action_dim: int
    chunk_length: int
    vocabulary: int
    channels: tuple[int, ...]
    dim: int
    layers: int
    heads: int


class Network(nn.Module):
    """In normalised units; pixels are uint8."""

    def __init__(self, sizes: Sizes, map_dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        widths, dim = (3, *sizes.channels), sizes.dim
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, k, stride=s, padding=k // 2), PixelNorm(o), nn.ReLU())
            for i, o, k, s in zip(widths, sizes.channels, chain([5], repeat(3)), chain([2, 2], repeat(1)), strict=False)
        ]
        cameras, side = len(sizes.cameras), sizes.image_size
        # the mean picture of a fixed camera spares the convolutions the learning of its background
        self.register_buffer("pixel_mean", torch.full((cameras, 3, side, side), 127.5))
        self.register_buffer("pixel_std", torch.full((cameras, 1, 1, 1), 127.5))
        self.convolutions = nn.Sequential(*blocks)
        for _ in sizes.channels[:2]:
            side = (side + 1) // 2
        self.dropout = nn.Dropout(map_dropout)
        self.map = nn.Linear(widths[-1] * side * side, dim)
        self.points = nn.Linear(2 * widths[-1], dim)
        self.camera = nn.Parameter(torch.randn(cameras, dim) * 0.02)
        self.proprio = nn.Linear(sizes.proprio_dim, dim)
        self.words = nn.Embedding(sizes.vocabulary, dim)
        self.queries = nn.Parameter(torch.randn(sizes.chunk_length, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim, sizes.heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, sizes.layers, enable_nested_tensor=False)
        self.action = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, sizes.action_dim))

    def forward(self, images: Tensor, proprio: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """The normalised chunk (B, M, A).

        Args:
            images: uint8 (B, V, 3, S, S). proprio: normalised (B, P). words: int64 (B, L), true in `word_mask`.
        """
        pixels = ((images - self.pixel_mean) / self.pixel_std).flatten(0, 1)
        # channels last: no copy for the norms
        maps = self.convolutions(pixels.contiguous(memory_format=torch.channels_last))
        pictures = self.map(self.dropout(maps.flatten(1))) + self.points(_spatial_softmax(maps))
        pictures = pictures.unflatten(0, images.shape[:2]) + self.camera
        queries = self.queries.expand(len(images), -1, -1)
        tokens = torch.cat([queries, pictures, self.proprio(proprio)[:, None], self.words(words)], 1)
        padding = F.pad(~word_mask, (tokens.shape[1] - words.shape[1], 0))
        hidden = self.transformer(tokens, src_key_padding_mask=padding)
        return self.action(hidden[:, : queries.shape[1]])


def _spatial_softmax(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 2C): where each channel's softmax over the picture has its mean, in [-1, 1]."""
    weights = maps.flatten(2).softmax(-1).unflatten(-1, maps.shape[2:])
    y, x = (torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[2:])
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], 1)


class PixelNorm(nn.LayerNorm):
    """Over the channels of each pixel (N, C, H, W), so that the arm's strong edges do not drown a faint object."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        block = params.behaviour_cloning
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
            self.model = Network(sizes, block.map_dropout)
        self._chunks, self._seed, self._dropout = chunks, seed, block.proprio_dropout
        for camera, frames in enumerate(chunks.cameras):
            self.model.pixel_mean[camera], self.model.pixel_std[camera] = mean_image(frames, chunks.rows)
        self._proprio = torch.from_numpy(self.statistics[PROPRIO].normalise(chunks.proprio))
        self._words, self._word_mask = tokenize(self.tokenizer, chunks.instructions)

    def batch(self, place: Place) -> Batch:
        rows = epoch_indices(len(self._chunks), place, self._seed)
        actions, real = self._chunks.chunks(rows.numpy(), self.model.sizes.chunk_length)
        images = torch.from_numpy(self._chunks.images(rows.numpy())).permute(0, 1, 4, 2, 3)
        instruction = torch.from_numpy(self._chunks.instruction)[rows]
        batch = Batch(
            images=images.contiguous(),
            proprio=self._proprio[rows] * (draw(place.generators(), "rand", 1) >= self._dropout),
            words=self._words[instruction],
            word_mask=self._word_mask[instruction],
            actions=torch.from_numpy(self.statistics[ACTION].normalise(actions)),
            real=torch.from_numpy(real),
        )
        return Batch(**{key: value.to(place.device) for key, value in vars(batch).items()})

    def loss(self, model: nn.Module, batch: Batch, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        actions = model(batch.images, batch.proprio, batch.words, batch.word_mask)
        return (actions - batch.actions)[batch.real].square().mean(), {}

    def save_policy(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        write_json(directory / "config.json", {"family": FAMILY, **asdict(self.model.sizes)})
        save_weights(directory / "model.safetensors", weights)
        write_statistics(directory / "statistics.json", self.statistics)
        self.tokenizer.save_pretrained(directory / "tokenizer")


class CloningPolicy:
    """See `world2act.policies.base.Policy`; the seeds change nothing."""

    def __init__(self, network: Network, statistics: Mapping[str, MinMax], tokenizer: PreTrainedTokenizerFast) -> None:
        self.sizes = network.sizes
        self.chunk_length, self.action_dim = network.sizes.chunk_length, network.sizes.action_dim
        self.cameras = dict.fromkeys(network.sizes.cameras, network.sizes.image_size)
        self.proprio_dim = network.sizes.proprio_dim
        self.statistics, self.tokenizer = statistics, tokenizer
        self.network = network.eval().requires_grad_(False)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        images = torch.from_numpy(stack_images(observations, self.sizes.cameras, self.sizes.image_size))
        proprio = self.statistics[PROPRIO].normalise(stack_proprio(observations, self.sizes.proprio_dim))
        words, word_mask = tokenize(self.tokenizer, [o.instruction for o in observations])
        inputs = (images.permute(0, 1, 4, 2, 3), torch.from_numpy(proprio), words, word_mask)
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            actions = self.network(*(tensor.to(device) for tensor in inputs))
        return np.clip(self.statistics[ACTION].restore(actions.cpu().numpy()), -1, 1)


def make_objective(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset, seed: int) -> CloningObjective:
    """See `world2act.policies.imitation.Family`."""
    return CloningObjective(params, dataset, chunks, seed)


def from_pretrained(directory: str | Path) -> CloningPolicy:
    """Open a policy, on the GPU where there is one.

    Raises:
        BadInput: a part is missing or damaged, or the weights are not exactly those that config.json asks for.
    """
    root = Path(directory)
    config = read_json(root / "config.json")
    expected = set(Sizes.__dataclass_fields__)
    if missing := sorted(expected - config.keys()):
        raise BadInput(root / "config.json", missing[0], "nothing", "a dimension", "restore it with `dvc checkout`")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    sizes = Sizes(**{key: values[key] for key in expected})
    statistics = read_statistics(root / "statistics.json", {ACTION: sizes.action_dim, PROPRIO: sizes.proprio_dim})
    network = Network(sizes)
    load_weights(network, root / "model.safetensors")
    device = best_device()
    return CloningPolicy(network.to(device), statistics, read_tokenizer(root / "tokenizer"))
