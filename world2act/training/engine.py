"""From a model and `Training` parameters to a DeepSpeed engine on the ranks of this run, and its optimiser."""

from __future__ import annotations

import logging
import os
from typing import Any

import deepspeed
import torch
from torch import nn

from world2act.core.errors import BadInput
from world2act.core.params import Training
from world2act.core.storage import read_json
from world2act.training.full_state import trainable
from world2act.training.optimizer import AveragingAdamW

_OWN = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"}


def micro_batch(training: Training, ranks: int) -> int:
    """The number of samples in one micro-batch on one rank.

    Raises:
        BadInput: ranks * accumulation does not divide the batch size.
    """
    shares = ranks * training.accumulation
    if training.batch_size % shares:
        raise BadInput(
            "params.yaml",
            "training.batch_size",
            training.batch_size,
            f"a multiple of {shares}: {ranks} ranks, {training.accumulation} micro-batches each",
            "change batch_size, accumulation or base.ranks",
        )
    return training.batch_size // shares


def read_configuration(training: Training) -> dict[str, Any]:
    """DeepSpeed's configuration file. Raises `BadInput` if it sets a value that belongs in `Training`."""
    config = read_json(training.deepspeed)
    for key in (*sorted(_OWN), "optimizer", "scheduler"):
        if key in config:
            raise BadInput(training.deepspeed, key, config[key], "no such key", "set it in params.yaml: training")
    return config


def frozen_dtype(training: Training) -> torch.dtype:
    """The type in which frozen weights are kept: the type of the computation."""
    autocast = read_configuration(training).get("torch_autocast", {})
    return torch.bfloat16 if autocast.get("enabled") and autocast.get("dtype") == "bfloat16" else torch.float32


def build_engine(model: nn.Module, training: Training, ranks: int) -> tuple[deepspeed.DeepSpeedEngine, AveragingAdamW]:
    """The engine and its optimiser. Raises `BadInput` as the functions above do."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns about every optimiser that it does not know
    config = read_configuration(training) | {
        "train_micro_batch_size_per_gpu": micro_batch(training, ranks),
        "gradient_accumulation_steps": training.accumulation,
        "gradient_clipping": training.clip_norm,
    }
    optimizer = AveragingAdamW(
        trainable(model).values(),
        decay=training.ema_decay,
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
    )
    # otherwise DeepSpeed spends seconds on compiling kernels of an optimiser that is not used
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, optimizer
