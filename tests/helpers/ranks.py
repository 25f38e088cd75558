"""Ranks and stages as processes of a test: forked from a server that has imported the heavy libraries once."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch", "deepspeed", "diffusers", "transformers", "peft", "world2act.training.loop", "dvclive"]
)


def run_module(folder: Path, name: str, prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """What `python -m NAME` in `folder` does, after `prepare` in the process that does it."""
    said = [folder / "stdout", folder / "stderr"]
    process = _CONTEXT.Process(target=_module, args=(folder, name, prepare, said))
    process.start()
    process.join()
    texts = [path.read_text() for path in said]
    for path in said:
        path.unlink()
    return subprocess.CompletedProcess(name, process.exitcode, *texts)


def _module(folder: Path, name: str, prepare: Callable[[], None] | None, said: list[Path]) -> None:
    for descriptor, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = [name]
    if prepare:
        prepare()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_ranks(folder: Path, ranks: int, function: Callable[..., object], *arguments: Any) -> str:
    """Call `function(*arguments)` in `folder` on every rank of a new process group.

    Returns:
        "" where every rank returned; otherwise how the others ended, and what all said on standard error. When one
        rank dies the others are killed, as torchrun does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("stderr-*"):
        file.unlink()
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
