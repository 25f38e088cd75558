"""LPIPS v0.1 over AlexNet, the perceptual distance of two pictures, for weights that are given by path.

Source: Zhang et al. 2018 and the package `lpips` 0.1.4, whose numbers the tests hold. Neither it nor torchvision is
needed: `convert` writes one safetensors file from their two .pth files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_file, read_tensors
from world2act.world_model.parts.tokenizer import to_video

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_CHANNELS = (64, 192, 384, 256, 256)
_REMEDY = "write it with `world2act convert-lpips`"


class Lpips(nn.Module):
    """Five stages of AlexNet, and for each the weights of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.channels = nn.ParameterList([nn.Parameter(torch.empty(1, count, 1, 1)) for count in _CHANNELS])
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def distance(self, frames: np.ndarray, others: np.ndarray) -> Tensor:
        """Of pairs of uint8 (N, H, W, 3), at least 31 pixels a side: (N,)."""
        stages = zip(self._stages(frames), self._stages(others), self.channels, strict=True)
        return sum((weight * (one - other).square()).sum(1).mean((1, 2)) for one, other, weight in stages)

    def _stages(self, frames: np.ndarray) -> list[Tensor]:
        """Each stage's features, a pixel's scaled to length 1."""
        x = to_video(frames[:, None])[:, :, 0].to(self.channels[0])
        x = (x - x.new_tensor(_SHIFT).view(1, 3, 1, 1)) / x.new_tensor(_SCALE).view(1, 3, 1, 1)
        found = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found


def load_lpips(path: str | Path) -> Lpips:
    """Open a file of `convert`. Raises `BadInput` where it is missing, damaged, or its keys are not these."""
    tensors, network = read_tensors(path), Lpips()
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise BadInput(path, wrong[0], f"{len(wrong)} keys do not match", "the weights of LPIPS over AlexNet", _REMEDY)
    network.load_state_dict({name: torch.from_numpy(tensor.astype(np.float32)) for name, tensor in tensors.items()})
    return network


def convert(alexnet: str | Path, channels: str | Path, out: str | Path) -> None:
    """Write one safetensors file of torchvision's AlexNet and the package lpips' weights/v0.1/alex.pth.

    Raises:
        BadInput: a file is missing, is not a plain file of tensors, or lacks a key.
    """
    state, linear = _read(alexnet), _read(channels)
    wanted = {name: (alexnet, state, name) for name in Lpips().state_dict() if name.startswith("features.")}
    wanted |= {f"channels.{i}": (channels, linear, f"lin{i}.model.1.weight") for i in range(len(_CHANNELS))}
    for path, tensors, name in wanted.values():
        if name not in tensors:
            raise BadInput(path, name, "nothing", "a tensor", "give torchvision's AlexNet first, then lpips' alex.pth")
    chosen = {key: tensors[name].float().contiguous() for key, (_, tensors, name) in wanted.items()}
    with atomic_file(Path(out)) as temporary:
        save_file(chosen, temporary)
    load_lpips(out)


def _read(path: str | Path) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise BadInput(path, "", "no such file", "a .pth file", "correct the path")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInput(path, "", str(error).splitlines()[0], "a file of tensors alone", "use another file") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(path, "", type(state).__name__, "names and tensors", "use another file")
    return state
