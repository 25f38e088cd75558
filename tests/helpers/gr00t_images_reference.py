"""Pictures as albumentations 1.4.18 and OpenCV make them, for tests/helpers/gr00t_images.json.

python -m venv images-env && images-env/bin/pip install albumentations==1.4.18 opencv-python-headless==5.0.0.93
images-env/bin/python tests/helpers/gr00t_images_reference.py > tests/helpers/gr00t_images.json
"""

import base64
import json
import sys
import zlib

import numpy as np

SIZES = [(30, 41), (24, 24), (64, 96), (48, 60), (13, 20)]
EDGE, FRACTION = 24, 0.95
JITTER = [
    ("brightness", 0.75),
    ("brightness", 1.3),
    ("contrast", 0.6),
    ("contrast", 1.4),
    ("saturation", 0.5),
    ("saturation", 1.5),
    ("hue", 0.06),
    ("hue", -0.08),
]


def draw(height: int, width: int) -> np.ndarray:
    """Waves of colour and noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 90 * np.sin(x / 7 + c) * np.cos(y / 11 - c) for c in range(3)], -1)
    return np.clip(waves + rng.normal(0, 25, waves.shape), 0, 255).astype(np.uint8)


def unpack(pixels: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(pixels)), np.uint8).reshape(shape)


def _pack(image: np.ndarray) -> dict[str, object]:
    return {"shape": list(image.shape), "pixels": base64.b64encode(zlib.compress(image.tobytes(), 9)).decode()}


def main() -> None:
    import albumentations as A
    import cv2
    from albumentations.augmentations import functional

    scale = A.SmallestMaxSize(max_size=EDGE, interpolation=cv2.INTER_AREA)
    found: dict[str, object] = {"edge": {}, "crop": {}, "jitter": {}}
    for height, width in SIZES:
        small = scale(image=draw(height, width))["image"]
        kept = [int(side * FRACTION) for side in small.shape[:2]]
        found["edge"][f"{height}x{width}"] = _pack(small)
        cropped = A.CenterCrop(*kept)(image=small)["image"]
        found["crop"][f"{height}x{width}"] = _pack(scale(image=cropped)["image"])
    for name, factor in JITTER:
        changed = getattr(functional, f"adjust_{name}_torchvision")(draw(24, 24), factor)
        found["jitter"][f"{name} {factor}"] = _pack(changed)
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
