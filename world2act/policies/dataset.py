"""What a policy takes from the dataset that it is trained on, beside the frames."""

from __future__ import annotations

from world2act.data.lerobot_v3 import IMAGES, EpisodeDataset
from world2act.errors import BadInput
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.protocol import RobotProtocol


def image_side(dataset: EpisodeDataset) -> int:
    """Pixels a side of the dataset's pictures. Raises `BadInput` where they are not square and of one size."""
    shapes = {tuple(dataset.features[IMAGES + camera]["shape"][:2]) for camera in dataset.cameras}
    height, width = next(iter(shapes))
    if len(shapes) > 1 or height != width:
        path = dataset.path / "meta/info.json"
        raise BadInput(path, "features", sorted(shapes), "square images of one size", "make the dataset anew")
    return height


def protocol_of(dataset: EpisodeDataset) -> RobotProtocol:
    """What these demonstrations were recorded under. Raises `BadInput` as `image_side` does."""
    return RobotProtocol(
        dataset.info["robot_type"],
        tuple(dataset.cameras),
        image_side(dataset),
        dataset.info["world2act"]["image_convention"],
        tuple(dataset.features[PROPRIO]["names"]),
        tuple(dataset.features[ACTION]["names"]),
        dataset.fps,
    )
