"""A training stage small enough to be killed: run by torchrun in tests/test_training.py."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from world2act.params import Base, Training
from world2act.stage import is_main
from world2act.training.loop import train
from world2act.training.objective import Place, draw, epoch_indices


class Toy:
    """Regression with dropout, so that every source of randomness of a step is used."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.1), nn.GELU(), nn.Linear(32, 1))
        self._x = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))

    def batch(self, place: Place) -> Tensor:
        if place.step == int(os.environ.get("KILL_AT", "-1")) and place.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        x = self._x[epoch_indices(len(self._x), place, seed=0)]
        return x + 0.1 * draw(place.generators(), "randn", *x.shape[1:])

    def loss(self, model: nn.Module, batch: Tensor, place: Place) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss * float(os.environ.get("SCALE", "1")), {"root": loss.detach().sqrt()}


def digest(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(state[key].numpy().tobytes() for key in sorted(state))).hexdigest()


if __name__ == "__main__":
    training = Training(
        steps=30, batch_size=8, accumulation=1, learning_rate=1e-2, warmup_steps=3, weight_decay=0.1,
        betas=(0.9, 0.99), clip_norm=1.0, ema_decay=0.9, checkpoint_every=10, deepspeed=sys.argv[1],
    )  # fmt: skip
    trained = train(
        Toy(), training, name="toy", base=Base(seed=0, ranks=1, workers=1), inputs=os.environ.get("INPUTS", "a")
    )
    if is_main():
        result = {"weights": digest(trained.weights), "ema": digest(trained.ema)}
        Path("result.json").write_text(json.dumps(result))
