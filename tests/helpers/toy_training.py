"""A training stage small enough to be killed and run often.

`python toy_training.py CONFIGURATION` is a stage, told by its environment; tests call `train_toy` on ranks of theirs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world2act.core.params import Base, Training
from world2act.core.stage import is_main
from world2act.core.storage import write_tensors
from world2act.training import checkpoint
from world2act.training.loop import Trained, train
from world2act.training.objective import BatchPosition, Objective, draw, epoch_indices


class Toy:
    """Regression with a frozen first layer, dropout if asked, and sizes that no number of ranks divides."""

    def __init__(self, dropout: float) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 33), nn.Dropout(dropout), nn.GELU(), nn.Linear(33, 1))
        self.model[0].requires_grad_(False)
        self._x = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))

    def batch(self, position: BatchPosition) -> Tensor:
        kill(position)
        x = self._x[epoch_indices(len(self._x), position, seed=0)]
        return x + 0.1 * draw(position.generators(), "randn", *x.shape[1:])

    def loss(
        self, model: nn.Module, batch: Tensor, position: BatchPosition
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss * float(os.environ.get("SCALE", "1")), {"root": loss.detach().sqrt()}


def kill(position: BatchPosition) -> None:
    if position.step == int(os.environ.get("KILL_AT", "-1")) and position.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def kill_saving(step: str) -> None:
    """Have rank 0 die when its part of a checkpoint is written and the checkpoint is not."""

    def dying(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
        write_tensors(path, tensors)
        if is_main() and path.parent.name == f".writing-{step}":
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.write_tensors = dying


def train_toy(configuration: str, options: dict[str, Any]) -> None:
    """One run of the regression, which `environment` in `options` may have die (KILL_AT, KILL_SAVING) or fail (SCALE).

    Args:
        options: `environment`, `dropout`, `identity`, and whatever `Training` takes.
    """
    os.environ |= options.pop("environment", {})
    if "KILL_SAVING" in os.environ:
        kill_saving(os.environ["KILL_SAVING"])
    run_toy(Toy(options.pop("dropout", 0.1)), configuration, options)


def run_toy(objective: Objective, configuration: str, options: dict[str, Any]) -> Trained:
    """Train, write result.safetensors from rank 0, and leave the model with its averaged weights."""
    values = {
        "steps": 30,
        "batch_size": 8,
        "accumulation": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "weight_decay": 0.1,
        "betas": (0.9, 0.99),
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "checkpoint_every": 10,
        "deepspeed": configuration,
    }
    identity = options.pop("identity", "a")
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    base = Base(seed=0, ranks=1, workers=1)
    trained = train(objective, Training(**values | options), name="toy", base=base, identity=identity)
    if is_main():
        parts = {"before": before, "weights": trained.weights, "ema": trained.ema}
        result = {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}
        write_tensors("result.safetensors", {name: value.numpy() for name, value in result.items()})
        objective.model.load_state_dict(trained.ema)
    return trained


if __name__ == "__main__":
    train_toy(sys.argv[1], {"identity": os.environ.get("IDENTITY", "a")})
