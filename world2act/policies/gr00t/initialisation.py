"""The block base_policy.gr00t of params.yaml and a dataset → the network and the processor that training starts from.

Either a network of the block's sizes, with weights drawn from the seed and a processor measured on the dataset; or a
checkpoint, which brings every size, and the statistics of the robots that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy
from world2act.core.storage import read_json
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.dataset import image_side, mean_image
from world2act.policies.gr00t.checkpoint import count_parameters, find_checkpoint, load_checkpoint, read_config
from world2act.policies.gr00t.configuration import UNSHUFFLE, ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.params import Parameters, Sizes
from world2act.policies.gr00t.policy import check_fit
from world2act.policies.gr00t.processing import (
    Names,
    PixelScale,
    Processor,
    Robot,
    Settings,
    make_tokenizer,
    read_settings,
    read_slot,
    read_tokenizer,
)
from world2act.policies.gr00t.processing.language import find_tokenizer, image_token_id
from world2act.policies.gr00t.processing.modality import STATISTICS
from world2act.policies.gr00t.processing.robot import find_cameras
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.training.engine import frozen_dtype

_HEAD_DIM = 32
_ROPE_THETA = 1e4


@dataclass(frozen=True)
class Initialisation:
    """A network and its processor.

    Attributes:
        folder: of the network's weights; None where they are drawn from the seed.
        dtype: of weights that come from a folder.
    """

    network: NetworkConfig
    processor: Processor
    folder: Path | None = None
    dtype: torch.dtype = torch.float32

    def load(self, seed: int) -> Gr00tModel:
        """The network with its weights. Raises `BadInput` as `load_checkpoint` does."""
        if self.folder is None:
            return Gr00tModel(self.network, seed)
        model = load_checkpoint(self.folder, self.dtype)
        model.config = self.network
        return model

    def outline(self) -> Gr00tModel:
        """The network on the meta device, without weights, in the dtype that they would have."""
        return Gr00tModel(self.network).to(self.dtype)


def plan(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset) -> Initialisation:
    """What training starts from.

    Args:
        chunks: the frames of the training split; everything that is measured is measured on them.

    Raises:
        BadInput: the checkpoint, the robot and the parameters do not fit one another.
    """
    block = params.block(Parameters)
    if block.sizes is not None:
        start = _drawn(params, block, block.sizes, dataset, chunks)
    else:
        start = _released(params, block, dataset, chunks)
    expected = block.parameters
    if expected is not None and expected != (found := count_parameters(start.network)):
        remedy = "correct the number or the sizes, or use the checkpoint that has so many"
        raise BadInput("params.yaml", "base_policy.gr00t.parameters", f"{found:,}", f"{expected:,}", remedy)
    return start


def _drawn(
    params: BasePolicy, block: Parameters, sizes: Sizes, dataset: EpisodeDataset, chunks: ChunkDataset
) -> Initialisation:
    tokenizer = make_tokenizer(chunks.instructions)
    network = make_config(block, sizes, params.chunk_length, dataset, tokenizer)
    cameras = find_cameras([*(block.views or dataset.cameras)], Robot.of(dataset), block.views)
    frames = [chunks.cameras[dataset.cameras.index(camera)] for camera in cameras]
    means, stds = zip(*(mean_image(images, chunks.rows) for images in frames), strict=True)
    settings = Settings(
        # the images of a fixed camera are left as they are
        shortest_image_edge=None,
        crop_fraction=None,
        max_state_dim=network.action_head.state_dim,
        max_action_dim=network.action_head.action_dim,
        max_action_horizon=network.action_head.horizon,
        clip_outliers=False,
    )
    scale = PixelScale(torch.stack(means), torch.stack(stds)[:, None, None, None])
    return Initialisation(
        network, _measured(params, dataset, chunks, network, settings, tokenizer, slot=0, scale=scale)
    )


def _released(params: BasePolicy, block: Parameters, dataset: EpisodeDataset, chunks: ChunkDataset) -> Initialisation:
    assert block.weights is not None  # `Parameters` has either sizes or weights
    folder = find_checkpoint(block.weights, "base_policy.gr00t.weights")
    network = read_config(folder)
    network = replace(network, action_head=replace(network.action_head, sampler_steps=block.sampler_steps))
    tokenizer = find_tokenizer(folder) if block.tokenizer is None else Path(block.tokenizer)
    if block.embodiment in read_json(folder / STATISTICS):
        processor = Processor.read(
            folder,
            block.embodiment,
            Robot.of(dataset),
            Names(block.views, block.state, block.action),
            tokenizer=tokenizer,
            chunk_length=params.chunk_length,
            token_side=network.vision_language.token_side,
        )
        processor.check_units(chunks.actions, chunks.proprio)
    elif block.tuning == "none":
        expected = f"one of {sorted(read_json(folder / STATISTICS))}, whose statistics the weights have"
        raise BadInput("params.yaml", "base_policy.gr00t.embodiment", block.embodiment, expected, "name it, or train")
    else:
        settings, slot = read_settings(folder), read_slot(folder, block.embodiment)
        words = read_tokenizer(tokenizer)
        processor = _measured(params, dataset, chunks, network, settings, words, slot=slot, scale=None)
    check_fit(network, processor, folder)
    if block.state_dropout and not network.action_head.state_dropout:
        expected = "0 or null, for weights without a token for hidden states"
        raise BadInput("params.yaml", "base_policy.gr00t.state_dropout", block.state_dropout, expected, "correct it")
    partly = block.tuning in ("projector_dit", "lora")
    return Initialisation(network, processor, folder, frozen_dtype(params.training) if partly else torch.float32)


def _measured(
    params: BasePolicy,
    dataset: EpisodeDataset,
    chunks: ChunkDataset,
    network: NetworkConfig,
    settings: Settings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    slot: int,
    scale: PixelScale | None,
) -> Processor:
    """The processor of a robot that no checkpoint knows."""
    block = params.block(Parameters)
    return Processor.of_dataset(
        settings,
        Robot.of(dataset),
        Names(block.views, block.state, block.action),
        tokenizer,
        actions=chunks.actions,
        proprio=chunks.proprio,
        chunk_length=params.chunk_length,
        embodiment=block.embodiment,
        slot=slot,
        token_side=network.vision_language.token_side,
        scale=scale,
    )


def make_config(
    params: Parameters, sizes: Sizes, chunk_length: int, dataset: EpisodeDataset, tokenizer: PreTrainedTokenizerBase
) -> NetworkConfig:
    """Sizes for this dataset's cameras, proprioception and actions; attention heads are 32 wide.

    Raises:
        BadInput: a width is not a multiple of 32; images are not square, not of one size, or do not divide into
            patches.
    """
    action_head = ActionHeadSizes(
        layers=sizes.action_head_layers,
        heads=_heads(sizes, "action_head_dim"),
        head_dim=_HEAD_DIM,
        hidden_dim=sizes.action_head_dim,
        slots=1,
        positions=chunk_length,
        state_dim=dataset.features[PROPRIO]["shape"][0],
        action_dim=dataset.features[ACTION]["shape"][0],
        horizon=chunk_length,
        state_dropout=params.state_dropout or 0.0,
        sampler_steps=params.sampler_steps,
    )
    return NetworkConfig(_vision_language(sizes, image_side(dataset), tokenizer), action_head)


def _vision_language(sizes: Sizes, side: int, tokenizer: PreTrainedTokenizerBase) -> VisionLanguageSizes:
    """Sizes for images with sides of `side` pixels."""
    vision_heads, language_heads = (_heads(sizes, key) for key in ("vision_dim", "language_dim"))
    if side % (UNSHUFFLE * sizes.vision_patch):
        key, expected = "base_policy.gr00t.sizes.vision_patch", f"a patch of which an even number makes {side} pixels"
        raise BadInput("params.yaml", key, sizes.vision_patch, expected, "choose 4, 8 or 16")
    return VisionLanguageSizes(
        vision_dim=sizes.vision_dim,
        vision_layers=sizes.vision_layers,
        vision_heads=vision_heads,
        vision_mlp_dim=4 * sizes.vision_dim,
        vision_patch=sizes.vision_patch,
        vision_positions=side // sizes.vision_patch,
        language_dim=sizes.language_dim,
        language_layers=sizes.language_layers,
        language_heads=language_heads,
        language_kv_heads=language_heads,
        language_head_dim=_HEAD_DIM,
        language_mlp_dim=3 * sizes.language_dim,
        language_rope_theta=_ROPE_THETA,
        vocabulary=len(tokenizer),
        image_token=image_token_id(tokenizer),
    )


def _heads(sizes: Sizes, key: Literal["vision_dim", "language_dim", "action_head_dim"]) -> int:
    dim: int = getattr(sizes, key)
    if dim % _HEAD_DIM:
        where = f"base_policy.gr00t.sizes.{key}"
        raise BadInput("params.yaml", where, dim, f"a multiple of {_HEAD_DIM}", "round it")
    return dim // _HEAD_DIM
