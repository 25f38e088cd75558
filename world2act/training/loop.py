"""The one training loop: an `Objective` and `Training` parameters in, trained weights out, by DeepSpeed.

Runs on as many ranks as its launcher started. A killed run continues from its last checkpoint and ends with the
weights that it would have had: whatever is random in a step is drawn from (seed, step, rank), the optimiser is a
client `torch.optim.AdamW` (bit-exact on resume, which DeepSpeed's own from the configuration file is not), and a
checkpoint belongs to one fingerprint of parameters, inputs and code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed

from world2act.errors import World2ActError
from world2act.params import Base, Training
from world2act.stage import RUNS, is_main
from world2act.storage import read_json, sha256, write_json
from world2act.training.checkpoint import WeightsOnlyCheckpoints
from world2act.training.log import TrainingLog
from world2act.training.objective import Objective, Place
from world2act.training.ranks import initialise, must_agree
from world2act.training.weights import Ema, full_weights


@dataclass(frozen=True)
class Trained:
    """State dicts on the CPU in float32, the same on every rank. `ema` equals `weights` where the decay is 0."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]


def train(objective: Objective, training: Training, *, name: str, base: Base, inputs: str) -> Trained:
    """Train `objective.model` for `training.steps` optimiser steps, or finish a run that was killed.

    Args:
        name: the stage; curves go to metrics/<name>/train, checkpoints to runs/<name>.
        inputs: a fingerprint of the data read; with other parameters, inputs or code a new run begins.

    Raises:
        BadInput: the ranks differ in code, parameters or inputs.
        World2ActError: the loss is no longer finite.
    """
    rank, ranks = initialise()
    run = RUNS / name / _fingerprint(objective, training, base, inputs, ranks)
    must_agree(str(run))
    engine = _engine(objective, training, ranks)
    ema = Ema(engine, training.ema_decay)
    log = TrainingLog(name, training.steps)
    first = _resume(engine, ema, run)
    log.begin(first)
    seconds = {"data_s": 0.0, "compute_s": 0.0}
    with _progress(name, training.steps, first) as advance:
        for step in range(first, training.steps):
            place = Place.of(base.seed, step, training.batch_size, rank=rank, ranks=ranks, device=engine.device)
            torch.manual_seed(place.seeds[0])  # dropout draws from the global generator
            for group in engine.optimizer.param_groups:
                group["lr"] = training.learning_rate * _schedule(step, training)
            began = time.monotonic()
            batch = objective.batch(place)
            loaded = time.monotonic()
            loss, metrics = objective.loss(engine, batch, place)
            engine.backward(loss)
            engine.step()
            ema.update()
            seconds["data_s"] += loaded - began
            seconds["compute_s"] += time.monotonic() - loaded
            log.add(step, {"loss": loss.detach(), **metrics})
            last = step + 1 == training.steps
            if last or (step + 1) % training.checkpoint_every == 0:
                log.flush(step)
                _check_finite(log, name, step)
                engine.save_checkpoint(str(run), tag=str(step + 1), client_state={"step": step + 1, "ema": ema.state()})
            advance(log.latest)
    log.end()
    trained = Trained(weights=full_weights(engine), ema=ema.weights())
    if is_main():
        samples = (training.steps - first) * training.batch_size
        rounded = {key: round(value, 2) for key, value in seconds.items()}
        write_json(run / "done.json", {**rounded, "samples": samples, "ranks": ranks})
    distributed.barrier()
    return trained


def _engine(objective: Objective, training: Training, ranks: int) -> deepspeed.DeepSpeedEngine:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if training.batch_size % ranks:
        raise World2ActError(
            f"training.batch_size {training.batch_size} is not divisible by {ranks} ranks: change one of them"
        )
    config = read_json(training.deepspeed) | {
        "train_micro_batch_size_per_gpu": training.batch_size // ranks,
        "gradient_clipping": training.clip_norm,
    }
    optimizer = torch.optim.AdamW(
        [p for p in objective.model.parameters() if p.requires_grad],
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
    )
    engine, *_ = deepspeed.initialize(model=objective.model, optimizer=optimizer, config=config)
    engine.checkpoint_engine = WeightsOnlyCheckpoints(engine._config)
    return engine


def _schedule(step: int, training: Training) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _fingerprint(objective: Objective, training: Training, base: Base, inputs: str, ranks: int) -> str:
    digest = hashlib.sha256()
    for key, tensor in objective.model.state_dict().items():
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
    digest.update(json.dumps([training.model_dump(), base.seed, ranks, inputs, read_json(training.deepspeed)]).encode())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(sha256(source).encode())
    return digest.hexdigest()[:16]


def _resume(engine: deepspeed.DeepSpeedEngine, ema: Ema, run: Path) -> int:
    if not (run / "latest").exists():
        return 0
    _, state = engine.load_checkpoint(str(run))
    ema.load(state["ema"])
    return int(state["step"])


def _check_finite(log: TrainingLog, name: str, step: int) -> None:
    if not math.isfinite(log.latest["loss"]):
        raise World2ActError(
            f"{name}: the loss is {log.latest['loss']} by step {step}: lower {name}.training.learning_rate, or look at"
            f" metrics/{name}/train for the step where it left the rails"
        )


@contextmanager
def _progress(name: str, steps: int, first: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar on rank 0 of a terminal, and nothing elsewhere."""
    columns = [
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (is_main() and console.is_terminal)) as progress:
        bar = progress.add_task(name, total=steps, completed=first, shown="")

        def advance(latest: dict[str, float]) -> None:
            progress.update(bar, advance=1, shown=" ".join(f"{key} {value:.3g}" for key, value in latest.items()))

        yield advance
