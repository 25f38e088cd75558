"""The block base_policy.gr00t of params.yaml and a dataset → the sizes of a GR00T-family policy."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.errors import BadInput
from world2act.params import Gr00t
from world2act.policies.dataset import image_side
from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.processing.language import IMAGE_TOKEN

_HEAD_DIM = 32
_ROPE_THETA = 1e4


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
        sampler_steps=params.sampler_steps,
    )
    return NetworkConfig(vision_language, action_head)
