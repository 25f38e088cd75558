"""DeepSpeed checkpoints, read without running anything that a pickle could ask for."""

from __future__ import annotations

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address


class WeightsOnlyCheckpoints(TorchCheckpointEngine):
    """DeepSpeed's own engine unpickles freely; this one allows tensors and the three plain classes it writes."""

    def load(self, path: str, map_location: torch.device | str | None = None) -> dict:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)
