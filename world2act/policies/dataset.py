"""What a policy takes from the dataset that it is trained on, apart from the frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from world2act.core.errors import BadInput
from world2act.data.features import IMAGES, element_names
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.robot import RobotDescription


def image_side(dataset: EpisodeDataset) -> int:
    """Pixels a side of the dataset's pictures. Raises `BadInput` where they are not square and of one size."""
    shapes = {tuple(dataset.features[IMAGES + camera]["shape"][:2]) for camera in dataset.cameras}
    height, width = next(iter(shapes))
    if len(shapes) > 1 or height != width:
        path = dataset.path / "meta/info.json"
        raise BadInput(path, "features", sorted(shapes), "square images of one size", "make the dataset again")
    return height


def describe_robot(dataset: EpisodeDataset) -> RobotDescription:
    """What these demonstrations were recorded under. Raises `BadInput` as `image_side` does."""
    return RobotDescription(
        dataset.info["robot_type"],
        tuple(dataset.cameras),
        image_side(dataset),
        dataset.info["world2act"]["image_convention"],
        tuple(element_names(dataset.features, PROPRIO)),
        tuple(element_names(dataset.features, ACTION)),
        dataset.fps,
    )


def mean_image(frames: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The mean (C, H, W) of some `rows` of uint8 frames (N, H, W, C), and the standard deviation around it, ()."""
    total = torch.zeros(frames.shape[1:], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in np.array_split(rows, range(1024, len(rows), 1024)):
        exact = torch.from_numpy(frames[part]).double()
        total += exact.sum(0)
        squares += exact.square().sum(0)
    mean = total / len(rows)
    std = (squares / len(rows) - mean.square()).mean().sqrt()
    return mean.permute(2, 0, 1).float(), std.float()
