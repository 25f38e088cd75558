"""The one training loop: an `Objective` and `Training` parameters in, trained weights out, by DeepSpeed.

Runs on as many ranks as its launcher started. A killed run continues from its last checkpoint and ends with the
weights that it would have had: whatever is random about a sample is drawn from (seed, step, sample), and a checkpoint
belongs to one identity of the stage (`world2act.core.identity`). The number of ranks, the accumulation and the ZeRO
stage are not part of it: a run may continue on more or fewer machines, and then ends with the same weights up to the
order of summation.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
from torch import Tensor, distributed, nn

from world2act.core.errors import World2ActError
from world2act.core.identity import stage_identity
from world2act.core.params import Base, Training
from world2act.core.seeds import derive
from world2act.core.stage import RUNS, DryRunDone, is_dry_run, is_main
from world2act.core.storage import write_json
from world2act.training import checkpoint
from world2act.training.dry_run import report
from world2act.training.engine import build_engine
from world2act.training.full_state import begin_optimizer, release, state_dicts
from world2act.training.log import TrainingLog
from world2act.training.objective import Batch, BatchPosition, Objective
from world2act.training.optimizer import AveragingAdamW
from world2act.training.progress import progress_bar
from world2act.training.ranks import initialise, must_agree


@dataclass(frozen=True)
class Trained:
    """State dicts in float32 on the CPU of rank 0, empty on the others. `ema` equals `weights` where the decay is 0."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]


def train(
    objective: Objective[Batch], training: Training, *, name: str, base: Base, identity: str | None = None
) -> Trained:
    """Train `objective.model` for `training.steps` optimiser steps, or finish a run that was killed.

    Args:
        name: the stage; curves go to metrics/<name>/train, checkpoints to runs/<name>.
        identity: the identity of the run; another one starts a new run. None for the identity of the stage `name`.

    Raises:
        BadInput: the ranks differ in code, parameters or inputs, or cannot share the batch.
        World2ActError: the loss is no longer finite.
        DryRunDone: this is a dry run, which trains nothing.
    """
    rank, ranks = initialise()
    seed = derive(base.seed, name)
    run = RUNS / name / (identity or stage_identity(name))
    must_agree(str(run))
    first = checkpoint.newest(run)
    if is_dry_run():
        report(objective, training, name=name, seed=seed, rank=rank, ranks=ranks, first=first)
        raise DryRunDone
    engine, optimizer = _start_engine(objective.model, training, ranks, run, first)
    log = TrainingLog(name, training.steps)
    log.begin(first)
    seconds = {"data_s": 0.0, "compute_s": 0.0}
    share = {"rank": rank, "ranks": ranks, "parts": training.accumulation, "device": engine.device}
    with progress_bar(name, training.steps, first) as advance:
        for step in range(first, training.steps):
            for group in engine.optimizer.param_groups:
                group["lr"] = training.learning_rate * _schedule(step, training)
            for part in range(training.accumulation):
                position = BatchPosition.of(seed, step, training.batch_size, part=part, **share)
                log.add(_train_on(objective, engine, position, seconds))
            log.end_step(step)
            last = step + 1 == training.steps
            if last or (step + 1) % training.checkpoint_every == 0:
                log.flush(step)
                _check_finite(log, name, step)
                checkpoint.save(engine, optimizer, run, step + 1)
            advance(log.latest)
    log.end()
    trained = Trained(*state_dicts(engine, optimizer))
    release(engine, trained.weights)
    if is_main():
        samples = (training.steps - first) * training.batch_size
        rounded = {key: round(value, 2) for key, value in seconds.items()}
        write_json(run / "done.json", {**rounded, "samples": samples, "ranks": ranks})
    distributed.barrier()
    return trained


def _start_engine(
    model: nn.Module, training: Training, ranks: int, run: Path, first: int
) -> tuple[deepspeed.DeepSpeedEngine, AveragingAdamW]:
    """The engine and its optimiser, as they were before step `first`."""
    if first:
        checkpoint.load_weights(model, run, first)
    engine, optimizer = build_engine(model, training, ranks)
    begin_optimizer(engine, optimizer, first)
    if first:
        checkpoint.load_moments(engine, optimizer, run, first)
    return engine, optimizer


def _train_on(
    objective: Objective[Batch], engine: deepspeed.DeepSpeedEngine, position: BatchPosition, seconds: dict[str, float]
) -> dict[str, Tensor | float]:
    """Train on one micro-batch and add the time it took to `seconds`. Returns: the scalars to log."""
    began = time.monotonic()
    torch.manual_seed(derive(position.seeds[0], "dropout"))  # it draws from the global generator
    batch = objective.batch(position)
    loaded = time.monotonic()
    loss, metrics = objective.loss(engine, batch, position)
    engine.backward(loss)
    engine.step()  # DeepSpeed's: updates the weights only after the last micro-batch
    seconds["data_s"] += loaded - began
    seconds["compute_s"] += time.monotonic() - loaded
    return {"loss": loss.detach(), **metrics}


def _schedule(step: int, training: Training) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _check_finite(log: TrainingLog, name: str, step: int) -> None:
    if not math.isfinite(log.latest["loss"]):
        raise World2ActError(
            f"{name}: the loss is {log.latest['loss']} by step {step}: lower {name}.training.learning_rate, or look at"
            f" metrics/{name}/train for the step at which it diverged"
        )
