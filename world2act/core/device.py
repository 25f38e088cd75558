"""Where models run."""

from __future__ import annotations

import os

import torch


def best_device() -> torch.device:
    """This process' GPU, cuda:LOCAL_RANK, where there is one; else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
