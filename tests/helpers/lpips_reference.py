"""Numbers of the package lpips 0.1.4 on weights and pictures drawn by numpy, for tests/helpers/lpips_numbers.json.

    python -m venv lpips-env && lpips-env/bin/pip install torch==2.13.0 numpy tqdm scipy
    lpips-env/bin/pip install --no-deps lpips==0.1.4
    lpips-env/bin/python tests/helpers/lpips_reference.py > tests/helpers/lpips_numbers.json

torchvision, which the package takes AlexNet's layers from, is stood in for by the same layers: its builds need CUDA.
"""

import json
import sys
import types

import numpy as np
import torch
from torch import nn

LAYERS = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


def draw() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """AlexNet's weights, those of the channels, and pairs of pictures, uint8 (2, 3, 64, 48, 3)."""
    rng = np.random.default_rng(0)
    features = {}
    for layer, shape in LAYERS.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        features[f"features.{layer}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        features[f"features.{layer}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    channels = {
        f"lin{i}.model.1.weight": rng.uniform(0, 1, (1, shape[0], 1, 1)).astype(np.float32)
        for i, shape in enumerate(LAYERS.values())
    }
    return features, channels, rng.integers(0, 256, (2, 3, 64, 48, 3), np.uint8)


def reference() -> dict[str, object]:
    sequence = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(True),
        nn.MaxPool2d(3, 2),
    )
    models = types.ModuleType("torchvision.models")
    models.alexnet = lambda **_: types.SimpleNamespace(features=sequence)
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models
    sys.modules |= {"torchvision": torchvision, "torchvision.models": models}
    import lpips

    features, channels, pictures = draw()
    sequence.load_state_dict({name.removeprefix("features."): torch.from_numpy(v) for name, v in features.items()})
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    network.load_state_dict({name: torch.from_numpy(v) for name, v in channels.items()}, strict=False)
    one, other = (torch.from_numpy(side).permute(0, 3, 1, 2).float() / 127.5 - 1 for side in pictures)
    with torch.no_grad():
        distance, stages = network(one, other, retPerLayer=True)
    return {
        "lpips": "0.1.4",
        "distance": distance.flatten().tolist(),
        "stages": [stage.flatten().tolist() for stage in stages],
    }


if __name__ == "__main__":
    json.dump(reference(), sys.stdout, indent=1)
