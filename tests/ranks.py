"""Ranks of a training run as processes of a test: forked from a server that has imported the heavy libraries once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")


def run_ranks(folder: Path, ranks: int, function: Callable[..., object], *arguments: Any) -> str:
    """Call `function(*arguments)` in `folder` on every rank of a new process group.

    Returns:
        "" where every rank returned; otherwise how the others ended, and what all said on standard error. When one
        rank dies the others are killed, as torchrun does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("stderr-*"):
        file.unlink()
    _CONTEXT.set_forkserver_preload(["torch", "deepspeed", "diffusers", "peft", "world2act.training.loop", "dvclive"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [
        _CONTEXT.Process(target=_rank, args=(folder, rank, ranks, port, function, arguments), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    waiting = list(processes)
    while waiting:
        multiprocessing.connection.wait([process.sentinel for process in waiting])
        dead = [process for process in waiting if process.exitcode is not None]
        waiting = [process for process in waiting if process.exitcode is None]
        if any(process.exitcode for process in dead):
            for process in waiting:
                process.join(2)
                process.kill()
    failed = [f"exit status {process.exitcode}\n" for process in processes if process.exitcode]
    errors = [file.read_text() for file in sorted(folder.glob("stderr-*")) if failed]
    return "".join(failed + errors)


def _rank(folder: Path, rank: int, ranks: int, port: int, function: Callable[..., object], arguments: tuple) -> None:
    os.chdir(folder)
    sys.stderr = Path(f"stderr-{rank}").open("w", buffering=1)  # noqa: SIM115
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
    }
    import torch

    torch.set_num_threads(1)
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
