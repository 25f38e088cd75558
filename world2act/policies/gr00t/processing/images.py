"""Pictures as GR00T-N1.6's vision encoder takes them.

Shortest edge to a size, crop, shortest edge to that size again, then a size that makes whole image tokens. Source:
gr00t/model/gr00t_n1d6/image_augmentations.py (albumentations' SmallestMaxSize with OpenCV's INTER_AREA, LetterBoxPad,
FractionalCenterCrop and FractionalRandomCrop, ColorJitter) and Eagle-Block2A-2B-v2's processing_eagle3_vl.py
(`smart_resize`, PIL's bicubic) of NVIDIA's Isaac-GR00T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from world2act.core.errors import BadInput
from world2act.core.storage import read_tensors, write_tensors
from world2act.policies.gr00t.processing.modality import Settings

_PIXELS = "pixels.safetensors"
_SIGLIP = 127.5
_MIN_TOKENS, _MAX_TOKENS = 4, 4096
_CENTRE = 0.5
_ROUNDING = 1e-9  # 0.1 * 30 is just below 3


@dataclass(frozen=True)
class PixelScale:
    """The mean picture of each view (V, 3, h, w) and the deviation around it (V, 1, 1, 1), or any shapes that spread.

    SigLIP2's own range of -1 to 1 is 127.5 and 127.5; the mean picture of a fixed camera spares a small encoder the
    learning of its background.
    """

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, V, 3, h, w) → float."""
        return (images - self.mean) / self.std

    @classmethod
    def siglip(cls) -> Self:
        return cls(torch.full((1, 1, 1, 1), _SIGLIP), torch.full((1, 1, 1, 1), _SIGLIP))

    def save(self, directory: Path) -> None:
        write_tensors(directory / _PIXELS, {key: value.numpy() for key, value in vars(self).items()})

    @classmethod
    def open(cls, directory: Path) -> Self:
        return cls(**{key: torch.from_numpy(value) for key, value in read_tensors(directory / _PIXELS).items()})


@dataclass(frozen=True)
class Augmentation:
    """One draw for all views of an observation.

    Attributes:
        place: the position of the crop within its range, [0, 1) from top and left.
        jitter: (name, factor) in the order in which they are applied; "hue" is a shift in turns.
    """

    place: tuple[float, float] = (_CENTRE, _CENTRE)
    jitter: tuple[tuple[str, float], ...] = ()


_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def draw_augmentation(settings: Settings, generator: torch.Generator) -> Augmentation:
    """A random place of the crop and colours within `color_jitter_params`, in a random order."""
    top, left = torch.rand(2, generator=generator).tolist()
    ranges = {key: value for key, value in (settings.color_jitter_params or {}).items() if value}
    jitter = []
    for name in (sorted(ranges)[index] for index in torch.randperm(len(ranges), generator=generator)):
        low, high = -ranges[name], ranges[name]
        if name != "hue":
            low, high = max(0.0, 1 + low), 1 + high
        jitter.append((name, low + (high - low) * torch.rand((), generator=generator).item()))
    return Augmentation((top, left), tuple(jitter))


def prepare(
    image: np.ndarray, settings: Settings, token_side: int, augmentation: Augmentation | None = None
) -> np.ndarray:
    """uint8 (H, W, 3) → uint8 (h, w, 3), a multiple of `token_side` pixels on each side; the crop is at the centre
    and the colours are left alone unless an augmentation is given."""
    if settings.letter_box_transform:
        image = letter_box(image)
    edge, fraction = crop_of(settings)
    image = smallest_edge(image, edge)
    image = smallest_edge(crop(image, fraction, augmentation.place if augmentation else None), edge)
    picture = Image.fromarray(image)
    for name, factor in augmentation.jitter if augmentation else ():
        picture = recolour(picture, name, factor)
    rows, columns = image.shape[:2]
    height, width = token_size(rows, columns, token_side)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def prepared_size(height: int, width: int, settings: Settings, token_side: int) -> tuple[int, int]:
    """The size of a picture once prepared. Raises `BadInput`: it is left as it is, and makes no whole image tokens."""
    if not settings.resizes:
        if height % token_side or width % token_side:
            expected = f"multiples of {token_side} pixels, for pictures are left as they are"
            raise BadInput("an observation", "images", f"{height} x {width}", expected, "choose another patch or size")
        return height, width
    return prepare(np.zeros((height, width, 3), np.uint8), settings, token_side).shape[:2]


def crop_of(settings: Settings) -> tuple[int, float]:
    """Shortest edge and crop fraction, which the settings may leave to their square sizes."""
    target, cropped = settings.image_target_size, settings.image_crop_size
    edge = settings.shortest_image_edge or (target[0] if target else None)
    fraction = settings.crop_fraction or (cropped[0] / target[0] if target and cropped else None)
    if edge is None or fraction is None:
        expected = "shortest_image_edge and crop_fraction, or image_target_size and image_crop_size"
        raise BadInput("processor_config.json", "processor_kwargs", settings, expected, "use the file as published")
    return edge, fraction


def letter_box(image: np.ndarray) -> np.ndarray:
    """Black bars on both sides of the shorter dimension; of an odd number of rows, one more below (or right)."""
    height, width = image.shape[:2]
    side = max(height, width)
    rows, columns = side - height, side - width
    return np.pad(image, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))


def crop(image: np.ndarray, fraction: float, place: tuple[float, float] | None) -> np.ndarray:
    """`fraction` of each side, at the centre or where `place` says."""
    full = image.shape[:2]
    kept = [max(1, int(side * fraction)) for side in full]
    spare = [side - part for side, part in zip(full, kept, strict=True)]
    if place is None:
        top, left = (rest // 2 for rest in spare)
    else:
        top, left = (int(share * (rest + 1)) for share, rest in zip(place, spare, strict=True))
    return image[top : top + kept[0], left : left + kept[1]]


def smallest_edge(image: np.ndarray, edge: int) -> np.ndarray:
    """Scale so that the shorter side is `edge` pixels, as OpenCV's INTER_AREA does (within one grey level)."""
    height, width = image.shape[:2]
    scale = edge / min(height, width)
    if scale == 1:
        return image
    scaled = image.astype(np.float64)
    for axis, side in enumerate((height, width)):
        scaled = _scale_axis(scaled, axis, round(side * scale))
    return np.floor(scaled + 0.5).astype(np.uint8)


def token_size(height: int, width: int, token_side: int) -> tuple[int, int]:
    """The nearest size in whole image tokens, between 4 and 4,096 of them: Eagle's `smart_resize`."""
    sides = [max(token_side, round(side / token_side) * token_side) for side in (height, width)]
    tokens = sides[0] * sides[1] / token_side**2
    if tokens > _MAX_TOKENS:
        shrink = math.sqrt(tokens / _MAX_TOKENS)
        sides = [math.floor(side / shrink / token_side) * token_side for side in sides]
    elif tokens < _MIN_TOKENS:
        grow = math.sqrt(_MIN_TOKENS * token_side**2 / (height * width))
        sides = [math.ceil(side * grow / token_side) * token_side for side in (height, width)]
    return sides[0], sides[1]


def recolour(picture: Image.Image, name: str, factor: float) -> Image.Image:
    """Brightness, contrast or saturation times a factor; or every hue turned by a part of the wheel, -0.5 to 0.5."""
    if name != "hue":
        return _ENHANCERS[name](picture).enhance(factor)
    hue, saturation, value = picture.convert("HSV").split()
    turned = Image.fromarray((np.asarray(hue).astype(np.int64) + round(factor * 255)).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _scale_axis(values: np.ndarray, axis: int, wanted: int) -> np.ndarray:
    """Each new pixel is the mean of what it covers, or is interpolated between two old ones where the image grows."""
    size = values.shape[axis]
    ratio, new = size / wanted, np.arange(wanted)
    first = np.floor(new * ratio + _ROUNDING).astype(np.int64)
    if ratio >= 1:
        taps = first[:, None] + np.arange(math.ceil(ratio) + 1)
        start, end = (new * ratio)[:, None], ((new + 1) * ratio)[:, None]
        weights = np.clip(np.minimum(end, taps + 1) - np.maximum(start, taps), 0, None) / ratio
    else:
        taps = first[:, None] + np.arange(2)
        share = (new + 1) - (first + 1) / ratio
        share = np.where(share <= 0, 0, share - np.floor(share))
        weights = np.stack([1 - share, share], 1)
    shape = [-1 if dimension == axis else 1 for dimension in range(values.ndim)]
    parts = (
        values.take(np.minimum(tap, size - 1), axis) * weight.reshape(shape)
        for tap, weight in zip(taps.T, weights.T, strict=True)
    )
    return sum(parts, np.zeros(()))
