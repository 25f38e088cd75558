"""Tiny GR00T policies: a network of 32 dimensions, and a processor measured on numbers that a test chooses."""

from collections.abc import Sequence

import numpy as np

from world2act.policies.gr00t.configuration import ActionHeadSizes, NetworkConfig, VisionLanguageSizes
from world2act.policies.gr00t.processing import Names, Processor, Robot, Settings, make_tokenizer
from world2act.policies.gr00t.processing.language import IMAGE_TOKEN


def tiny_network(
    *, state_dim: int, action_dim: int, horizon: int, patch: int = 8, layers: int = 4, slots: int = 2, steps: int = 4
) -> NetworkConfig:
    image_token = make_tokenizer([]).convert_tokens_to_ids(IMAGE_TOKEN)
    return NetworkConfig(
        VisionLanguageSizes(32, 1, 1, 64, patch, 4, 32, 1, 2, 1, 16, 64, 1e4, vocabulary=40, image_token=image_token),
        ActionHeadSizes(
            layers,
            1,
            32,
            16,
            slots,
            horizon,
            state_dim=state_dim,
            action_dim=action_dim,
            horizon=horizon,
            sampler_steps=steps,
        ),
    )


def tiny_processor(
    network: NetworkConfig,
    *,
    cameras: Sequence[str],
    image_size: int,
    actions: np.ndarray,
    proprio: np.ndarray,
    instructions: Sequence[str],
    slot: int = 0,
) -> Processor:
    """That of a robot whose numbers go from row 0 to row 1 of `actions` (2, A) and of `proprio` (2, P)."""
    head = network.action_head
    settings = Settings(
        shortest_image_edge=None,
        crop_fraction=None,
        max_state_dim=head.state_dim,
        max_action_dim=head.action_dim,
        max_action_horizon=head.horizon,
        clip_outliers=False,
    )
    names = ([f"{kind}{i}" for i in range(values.shape[1])] for kind, values in (("p", proprio), ("a", actions)))
    return Processor.of_dataset(
        settings,
        Robot(tuple(cameras), image_size, *map(tuple, names)),
        Names(),
        make_tokenizer(instructions),
        actions=actions,
        proprio=proprio,
        chunk_length=head.horizon,
        embodiment="new_embodiment",
        slot=slot,
        token_side=network.vision_language.token_side,
    )
