"""The processes of one training stage: who am I, and how do all of us share rows of work."""

from __future__ import annotations

import hashlib
import os

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor, distributed

from world2act.errors import BadInput


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


def must_agree(what: str) -> None:
    """Check that every rank brings the same text: ranks of several nodes may have been started from several copies.

    Raises:
        BadInput: on every rank, where two differ.
    """
    digest = torch.tensor(list(hashlib.sha256(what.encode()).digest()), dtype=torch.uint8)[None]
    digests = gather(digest.to(get_accelerator().current_device_name())).cpu()
    if not (digests == digest).all():
        raise BadInput(
            "the ranks",
            "",
            f"{what} on this one, another run on another",
            "the same code, parameters and artifacts on every node",
            "let the nodes share one workspace folder",
        )
