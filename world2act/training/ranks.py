"""The processes of one training stage: who am I, and how do all of us share rows of work."""

from __future__ import annotations

import os

import deepspeed
import torch
from torch import Tensor, distributed


def initialise() -> tuple[int, int]:
    """Join the other ranks, as the launcher's environment says, or stand alone without one; (rank, ranks)."""
    for key, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        os.environ.setdefault(key, value)
    if not torch.cuda.is_available():
        # gloo does the same work; the shared-memory kernel would need a C++ compiler and a minute to build
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    return distributed.get_rank(), distributed.get_world_size()


def gather(tensor: Tensor) -> Tensor:
    """The rows of all ranks, one rank's behind another's. Every rank must bring the same shape."""
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
