"""The processes of one training stage: their ranks, and how they exchange rows of results."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor, distributed

from world2act.core.errors import BadInput


def initialise() -> tuple[int, int]:
    """Join the other ranks as the launcher's environment says, or run alone. Returns: (rank, ranks)."""
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
    """The rows of all ranks, in the order of the ranks. Every rank must pass the same shape."""
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all ranks, in any number per rank; they hold numbers, text and lists of them, as JSON does."""
    if not distributed.is_initialized():
        return rows
    device = get_accelerator().current_device_name()
    text = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8)
    lengths = gather(torch.tensor([len(text)], device=device)).tolist()
    padded = torch.zeros(1, max(lengths), dtype=torch.uint8)
    padded[0, : len(text)] = text
    texts = gather(padded.to(device)).cpu()
    return [
        row for found, length in zip(texts, lengths, strict=True) for row in json.loads(bytes(found[:length].tolist()))
    ]


def must_agree(what: str) -> None:
    """Check that every rank has the same text: nodes may have been started from different copies of the project.

    Raises:
        BadInput: on every rank, if the texts of two ranks differ.
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
