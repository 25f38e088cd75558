"""AdamW that also averages what it steps.

DeepSpeed hands its optimiser this rank's part of the float32 weights, whatever the ZeRO stage, and keeps each of the
optimiser's moments where that part is. The moving average is kept as one more moment: nothing is held twice, each rank
averages its own part, and an optimiser that is offloaded takes its average along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "average"


def moments(decay: float) -> tuple[str, ...]:
    """The names of the moments kept for each weight, with a moving average where `decay` is above 0."""
    return (*MOMENTS, AVERAGE) if decay else MOMENTS


class AveragingAdamW(torch.optim.AdamW):
    """torch's AdamW and, where `decay` is above 0, a moving average of the weights.

    A client optimiser, because DeepSpeed's own from the configuration file does not resume bit by bit.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, decay: float, lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
        self._decay, self.moments = decay, moments(decay)

    def begin(self, tensors: Iterable[Tensor], step: int) -> None:
        """Moments of the tensors that will be stepped, as they are before any step; `step` steps are counted."""
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
