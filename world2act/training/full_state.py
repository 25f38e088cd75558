"""Full weights and optimiser moments of a DeepSpeed engine, in float32, for any ZeRO stage and number of ranks.

ZeRO 0 updates the parameters themselves, ZeRO 1 and 2 update the flat partition of each rank, and under ZeRO 3 a rank
holds only its partition. Every rank must call these functions, for the same parameters in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, distributed, nn
from torch.nn import functional

from world2act.core.stage import is_main
from world2act.training.optimizer import AVERAGE, AveragingAdamW


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def begin_optimizer(engine: deepspeed.DeepSpeedEngine, optimizer: AveragingAdamW, step: int) -> None:
    """Create the optimiser's moments before the first step, so that they can be set."""
    zero = engine.optimizer
    match engine.zero_optimization_stage():
        case 0:
            optimizer.begin(trainable(engine.module).values(), step)
        case 1 | 2:
            optimizer.begin(zero.single_partition_of_fp32_groups, step)
            zero._lazy_init_hp_params_optimizer_state()
        case 3:
            optimizer.begin(zero.fp32_partitioned_groups_flat, step)


def full_weight(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter) -> Tensor:
    """A parameter, trained or frozen."""
    partitioned = engine.zero_optimization_stage() == 3
    if parameter.requires_grad and (partitioned or parameter.dtype != torch.float32):
        return safe_get_full_fp32_param(parameter)
    with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
        return parameter.detach().float().cpu().clone()


def full_moment(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, name: str) -> Tensor:
    """A moment that the optimiser keeps for a trained parameter."""
    if engine.zero_optimization_stage() == 0:
        return engine.optimizer.state[parameter][name]
    return safe_get_full_optimizer_state(parameter, name)


def set_moment(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, name: str, value: Tensor) -> None:
    """Set what `full_moment` returns."""
    match engine.zero_optimization_stage():
        case 0:
            engine.optimizer.state[parameter][name].copy_(value)
        case 1 | 2:
            safe_set_full_optimizer_state(parameter, value, name)
        case 3:
            # DeepSpeed's own function truncates the last rank's part if the ranks do not divide the parameter
            partitioned = cast(Any, parameter)  # by DeepSpeed, which adds attributes to it
            size, rank = partitioned.ds_tensor.numel(), distributed.get_rank(partitioned.ds_process_group)
            part = value.flatten()[rank * size : (rank + 1) * size]
            safe_set_local_optimizer_state(parameter, functional.pad(part, (0, size - part.numel())), name)


def state_dicts(
    engine: deepspeed.DeepSpeedEngine, optimizer: AveragingAdamW
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The module's state dict and the same with averaged weights, on the CPU of rank 0; empty on the other ranks."""
    averages = AVERAGE in optimizer.moments
    weights: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        weight = full_weight(engine, parameter)
        average = full_moment(engine, parameter, AVERAGE) if averages and parameter.requires_grad else None
        if is_main():
            weights[name] = _copy(weight)
            averaged[name] = weights[name] if average is None else _copy(average)
    buffers = {name: _copy(value) for name, value in persistent_buffers(engine.module).items() if is_main()}
    return weights | buffers, averaged | buffers


def release(engine: deepspeed.DeepSpeedEngine, weights: Mapping[str, Tensor]) -> None:
    """End the engine; on rank 0 its module is a plain one again that holds `weights`."""
    engine.destroy()
    if not is_main() or engine.zero_optimization_stage() < 3:
        return
    for prefix, module in engine.module.named_modules():
        trained = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        module._parameters = dict.fromkeys(module._parameters)
        for name, parameter in trained.items():
            value = weights[f"{prefix}.{name}" if prefix else name].clone()
            module._parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The entries of a state dict that are not parameters."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: value for name, value in model.state_dict().items() if name not in parameters}


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()
