"""The block base_policy.gr00t of params.yaml and a dataset → the network and the processor that training starts from.

Either a network of the block's sizes, drawn, whose processor is measured on the dataset; or a checkpoint, which has
every size, and the statistics of the robots that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from world2act.core.errors import BadInput
from world2act.core.params import BasePolicy, Gr00t
from world2act.core.storage import read_json
from world2act.data.chunks import ChunkDataset
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.dataset import image_side, mean_image
from world2act.policies.gr00t.checkpoint import count_parameters, find_checkpoint, load_checkpoint, read_config
from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.model import Gr00tModel
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
from world2act.policies.gr00t.processing.language import IMAGE_TOKEN, find_tokenizer
from world2act.policies.gr00t.processing.modality import STATISTICS
from world2act.policies.gr00t.processing.robot import find_cameras
from world2act.training.engine import frozen_dtype

_HEAD_DIM = 32
_ROPE_THETA = 1e4


@dataclass(frozen=True)
class Start:
    """A network and its processor.

    Attributes:
        folder: of the network's weights; None where they are drawn.
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
        """The network without its weights, as wide as they would be; on the meta device."""
        return Gr00tModel(self.network).to(self.dtype)


def plan(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset) -> Start:
    """What training starts from.

    Args:
        chunks: the frames of the training split, which all is measured on.

    Raises:
        BadInput: the checkpoint, the robot and the parameters do not fit one another.
    """
    start = _drawn(params, dataset, chunks) if params.gr00t.weights is None else _released(params, dataset, chunks)
    expected = params.gr00t.parameters
    if expected is not None and expected != (found := count_parameters(start.network)):
        remedy = "correct it, or the sizes, or use the checkpoint that it is of"
        raise BadInput("params.yaml", "base_policy.gr00t.parameters", f"{found:,}", f"{expected:,}", remedy)
    return start


def _drawn(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset) -> Start:
    block, tokenizer = params.gr00t, make_tokenizer(chunks.instructions)
    network = make_config(block, params.chunk_length, dataset, tokenizer)
    cameras = find_cameras([*(block.views or dataset.cameras)], Robot.of(dataset), block.views)
    frames = [chunks.cameras[dataset.cameras.index(camera)] for camera in cameras]
    means, stds = zip(*(mean_image(each, chunks.rows) for each in frames), strict=True)
    settings = Settings(
        # the pictures of a fixed camera, as they are
        shortest_image_edge=None,
        crop_fraction=None,
        max_state_dim=network.action_head.state_dim,
        max_action_dim=network.action_head.action_dim,
        max_action_horizon=network.action_head.horizon,
        clip_outliers=False,
    )
    scale = PixelScale(torch.stack(means), torch.stack(stds)[:, None, None, None])
    return Start(network, _measured(params, dataset, chunks, network, settings, tokenizer, slot=0, scale=scale))


def _released(params: BasePolicy, dataset: EpisodeDataset, chunks: ChunkDataset) -> Start:
    block, folder = params.gr00t, find_checkpoint(params.gr00t.weights, "base_policy.gr00t.weights")
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
    return Start(network, processor, folder, frozen_dtype(params.training) if partly else torch.float32)


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
    block = params.gr00t
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
    params: Gr00t, chunk_length: int, dataset: EpisodeDataset, tokenizer: PreTrainedTokenizerBase
) -> NetworkConfig:
    """Sizes for this dataset's cameras, proprioception and actions; heads are 32 wide.

    Raises:
        BadInput: a width is no multiple of 32, images are not square and of one size, or do not divide into patches.
    """
    sizes = params.sizes
    for key in ("vision_dim", "language_dim", "action_head_dim"):
        if getattr(sizes, key) % _HEAD_DIM:
            expected = f"a multiple of {_HEAD_DIM}"
            raise BadInput("params.yaml", f"base_policy.gr00t.sizes.{key}", getattr(sizes, key), expected, "round it")
    height = image_side(dataset)
    if height % (2 * sizes.vision_patch):
        expected = f"a patch of which an even number makes {height} pixels"
        raise BadInput(
            "params.yaml", "base_policy.gr00t.sizes.vision_patch", sizes.vision_patch, expected, "choose 4, 8 or 16"
        )
    action_dim = dataset.features["action"]["shape"][0]
    proprio_dim = dataset.features["observation.state"]["shape"][0]
    vision_language = VisionLanguageSizes(
        vision_dim=sizes.vision_dim,
        vision_layers=sizes.vision_layers,
        vision_heads=sizes.vision_dim // _HEAD_DIM,
        vision_mlp_dim=4 * sizes.vision_dim,
        vision_patch=sizes.vision_patch,
        vision_positions=height // sizes.vision_patch,
        language_dim=sizes.language_dim,
        language_layers=sizes.language_layers,
        language_heads=sizes.language_dim // _HEAD_DIM,
        language_kv_heads=sizes.language_dim // _HEAD_DIM,
        language_head_dim=_HEAD_DIM,
        language_mlp_dim=3 * sizes.language_dim,
        language_rope_theta=_ROPE_THETA,
        vocabulary=len(tokenizer),
        image_token=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    action_head = ActionHeadSizes(
        layers=sizes.action_head_layers,
        heads=sizes.action_head_dim // _HEAD_DIM,
        head_dim=_HEAD_DIM,
        hidden_dim=sizes.action_head_dim,
        slots=1,
        positions=chunk_length,
        state_dim=proprio_dim,
        action_dim=action_dim,
        horizon=chunk_length,
        state_dropout=params.state_dropout or 0.0,
        sampler_steps=params.sampler_steps,
    )
    return NetworkConfig(vision_language, action_head)
