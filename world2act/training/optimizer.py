"""AdamW that also keeps a moving average of the weights.

At every ZeRO stage, DeepSpeed gives its optimiser this rank's part of the float32 weights, and keeps the moments of the
optimiser with that part. The moving average is one more moment: nothing is stored twice, each rank averages its own
part, and the average of an offloaded optimiser is offloaded too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "average"


def moments(decay: float) -> tuple[str, ...]:
    """The names of the moments kept for each weight; they include a moving average if `decay` is above 0."""
    return (*MOMENTS, AVERAGE) if decay else MOMENTS


class AveragingAdamW(torch.optim.AdamW):
    """torch's AdamW and, if `decay` is above 0, a moving average of the weights.

    It is built here because an optimiser that DeepSpeed builds from its configuration file does not resume to the bit.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, decay: float, lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
        self._decay, self.moments = decay, moments(decay)

    def begin(self, tensors: Iterable[Tensor], step: int) -> None:
        """Create the initial moments of the tensors that will be updated, and set the step count to `step`."""
        for tensor in tensors:
            state = {"step": torch.tensor(float(step))}
            state |= {name: torch.zeros_like(tensor, requires_grad=False) for name in MOMENTS}
            if self._decay:
                state[AVERAGE] = tensor.detach().clone()
            self.state[tensor] = state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        loss = super().step(closure)
        for group in self.param_groups if self._decay else ():
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            # a short run must not be dominated by the initial weights, hence the ramp
            done = self.state[weights[0]]["step"].item()
            decay = min(self._decay, (1 + done) / (10 + done))
            get_ema_multi_avg_fn(decay)([self.state[weight][AVERAGE] for weight in weights], weights, None)
        return loss
