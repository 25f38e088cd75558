"""Whole float32 weights of a DeepSpeed engine at any ZeRO stage, and their exponential moving average."""

from __future__ import annotations

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor


def _full(engine: deepspeed.DeepSpeedEngine, parameter: Tensor) -> Tensor:
    whole = engine.zero_optimization_stage() < 3 and parameter.dtype == torch.float32
    return parameter.detach() if whole or not parameter.requires_grad else safe_get_full_fp32_param(parameter)


def full_weights(engine: deepspeed.DeepSpeedEngine) -> dict[str, Tensor]:
    """The module's state dict, float parameters in float32 on the CPU. Every rank must call it."""
    parameters = dict(engine.module.named_parameters())
    return {
        key: (_full(engine, parameters[key]) if key in parameters else value).detach().cpu().clone()
        for key, value in engine.module.state_dict().items()
    }


class Ema:
    """Moving average of the trainable parameters, kept in float32 on every rank; a decay of 0 keeps none."""

    def __init__(self, engine: deepspeed.DeepSpeedEngine, decay: float) -> None:
        self._engine, self._decay = engine, decay
        self._parameters = {k: p for k, p in engine.module.named_parameters() if p.requires_grad and decay}
        self._average = {k: _full(engine, p).float().clone() for k, p in self._parameters.items()}
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        # a short run must not be dominated by the initial weights, hence the ramp
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for key, parameter in self._parameters.items():
            self._average[key].lerp_(_full(self._engine, parameter).float(), 1 - decay)

    def state(self) -> dict[str, Tensor | int]:
        return {"updates": self._updates, **self._average}

    def load(self, state: dict[str, Tensor | int]) -> None:
        self._updates = int(state["updates"])
        for key, average in self._average.items():
            average.copy_(state[key])

    def weights(self) -> dict[str, Tensor]:
        """The state dict with averaged parameters. Every rank must call it."""
        return full_weights(self._engine) | {key: value.cpu().clone() for key, value in self._average.items()}
