"""Pictures as NVIDIA prepares them for GR00T, against what albumentations and OpenCV gave.

One grey level from OpenCV, which weighs in 1/2048ths; eight from its hues, of which it knows 180.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.gr00t_images_reference import EDGE, FRACTION, JITTER, SIZES, draw, unpack
from world2act.core.storage import read_json
from world2act.policies.gr00t.processing import Settings, draw_augmentation, images

REFERENCE = read_json(Path(__file__).parents[2] / "helpers/gr00t_images.json")
SETTINGS = Settings(
    shortest_image_edge=256,
    crop_fraction=0.95,
    max_state_dim=9,
    max_action_dim=8,
    max_action_horizon=6,
    color_jitter_params={"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
)


def _apart(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("size", SIZES)
def test_resized_as_opencv_does(size: tuple[int, int]) -> None:
    key = f"{size[0]}x{size[1]}"
    edge, cropped = (unpack(**REFERENCE[kind][key]) for kind in ("edge", "crop"))
    assert _apart(images.smallest_edge(draw(*size), EDGE), edge) <= 1
    assert _apart(images.smallest_edge(images.crop(edge, FRACTION, None), EDGE), cropped) <= 1


@pytest.mark.parametrize(("name", "factor"), JITTER)
def test_coloured_as_albumentations_does(name: str, factor: float) -> None:
    found = REFERENCE["jitter"][f"{name} {factor}"]
    coloured = images.recolour(Image.fromarray(draw(24, 24)), name, factor)
    assert _apart(np.asarray(coloured), unpack(**found)) <= (8 if name == "hue" else 1)


def test_whole_image_tokens() -> None:
    """What Eagle's `smart_resize` gives by its own rules: nearest multiple of 28, 4 to 4,096 tokens."""
    sizes = [(256, 256), (256, 341), (30, 30), (28 * 80, 28 * 80), (20, 300)]
    assert [images.token_size(*size, 28) for size in sizes] == [
        (252, 252),
        (252, 336),
        (56, 56),
        (28 * 64, 28 * 64),
        (28, 308),
    ]
    assert images.prepared_size(256, 256, SETTINGS, 28) == (252, 252)  # 81 tokens a view
    assert images.prepared_size(480, 640, SETTINGS, 28) == (252, 336)
    assert images.prepared_size(480, 640, SETTINGS.model_copy(update={"letter_box_transform": True}), 28) == (252,) * 2


def test_letter_box_puts_the_odd_row_below() -> None:
    boxed = images.letter_box(np.full((3, 8, 3), 7, np.uint8))
    assert boxed.shape == (8, 8, 3) and boxed[:, 0, 0].tolist() == [0, 0, 7, 7, 7, 0, 0, 0]


def test_augmentation_comes_from_its_generator_alone() -> None:
    def draws(seed: int) -> list[images.Augmentation]:
        generator = torch.Generator().manual_seed(seed)
        return [draw_augmentation(SETTINGS, generator) for _ in range(200)]

    assert draws(0) == draws(0) != draws(1)
    assert {name for name, _ in draws(0)[0].jitter} == {"brightness", "contrast", "saturation", "hue"}
    assert len({tuple(name for name, _ in one.jitter) for one in draws(0)}) == 24
    for name, spread, centre in (("brightness", 0.3, 1), ("hue", 0.08, 0)):
        factors = np.array([dict(one.jitter)[name] for one in draws(0)])
        assert np.abs(factors - centre).max() <= spread and np.ptp(factors) > 1.9 * spread
    places = np.array([one.place for one in draws(0)])
    corner = np.zeros((20, 20, 3), np.uint8)
    corner[0, 0] = corner[-1, -1] = 1
    seen = [images.crop(corner, 0.95, tuple(place)).sum() for place in places]
    assert {0, 3} == set(seen)
