"""`python -m world2act.training.launch MODULE [--dry-run]`: run a training stage on `base.ranks` processes.

With `--dry-run` it builds everything, takes no step, writes nothing, and prints what it would take.

On one machine torch's elastic launcher starts them. On several, DeepSpeed's launcher does, and two environment
variables tell it how, so that the command in dvc.yaml is the same everywhere and where it runs is no parameter:

    WORLD2ACT_HOSTFILE    DeepSpeed's hostfile: one line `NAME slots=PROCESSES` per node, `base.ranks` processes in all.
                          The first node is the main one. Every node, the main one included, must reach it by that name
                          at an address that is not its loopback, at MASTER_PORT (29500 unless set).
    WORLD2ACT_NODE_RANK   the line of this node, counted from 0, if each node starts its own share (Kubernetes). Without
                          it, the main node starts the others by ssh (pdsh), in the same folder; the environment that
                          they need (OMP_NUM_THREADS, MUJOCO_GL) comes from DeepSpeed's file .deepspeed_env.

The nodes share the workspace folder (a network volume): each reads the artifacts there and writes its part of the
checkpoints. An Indexed Job of Kubernetes, whose JOB_COMPLETION_INDEX becomes WORLD2ACT_NODE_RANK, runs

    main node:   dvc repro --single-item STAGE
    the others:  python -m world2act.training.launch stages.STAGE

The others wait until the main node trains. If it finds nothing to train, they wait until they are stopped: let the job
succeed with index 0 (`successPolicy`).
"""

from __future__ import annotations

import logging
import os
import runpy
import socket
import subprocess
import sys
import time
import uuid
import warnings
from importlib import import_module
from pathlib import Path

import psutil

from world2act.core.errors import BadInput, World2ActError
from world2act.core.params import load_params
from world2act.core.stage import DRY_RUN, LAUNCHED_AT
from world2act.processes.lifetime import child_command, end_with_parent

HOSTFILE, NODE_RANK = "WORLD2ACT_HOSTFILE", "WORLD2ACT_NODE_RANK"
_HEAVY = ("deepspeed", "diffusers.models", "peft", "dvclive")
_POLL_S = 2.0


def main(module: str, *arguments: str) -> None:
    os.environ[LAUNCHED_AT] = str(psutil.Process().create_time())
    # DeepSpeed still calls torch's collectives by their old names, at every step
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:torch.distributed.c10d_logger")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
    try:
        if set(arguments) - {DRY_RUN}:
            raise BadInput("the command line", "", " ".join(arguments), f"{DRY_RUN} or nothing", "correct it")
        ranks = load_params().base.ranks
        if HOSTFILE not in os.environ:
            _share_cores(ranks)
        _choose_accelerator()
        nodes = read_hostfile(Path(os.environ[HOSTFILE]), ranks) if HOSTFILE in os.environ else {}
        node = read_node_rank(nodes)
    except World2ActError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if nodes:
        _share_cores(list(nodes.values())[node or 0])
    code = _run_on_nodes(nodes, node, module, *arguments) if nodes else _run_here(ranks, module, *arguments)
    if code not in (0, 2):
        print(
            f"{module}: a rank ended with exit status {code}; rerun to go on from its last checkpoint", file=sys.stderr
        )
    sys.exit(code if code >= 0 else 1)


def _share_cores(ranks: int) -> None:
    """Threads for each rank of this machine. torch reads the number when it is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))


def _choose_accelerator() -> None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def read_hostfile(path: Path, ranks: int) -> dict[str, int]:
    """The nodes of a hostfile and the number of processes on each, as DeepSpeed reads them.

    Raises:
        BadInput: there is no such file, DeepSpeed cannot read it, or its slots do not add up to `ranks` processes.
    """
    from deepspeed.launcher.runner import fetch_hostfile

    expected = f"lines `NAME slots=PROCESSES` for {ranks} processes in all"
    if not path.is_file():
        raise BadInput(path, "", "nothing", expected, f"write it, or unset {HOSTFILE} to train on this machine alone")
    logging.getLogger("DeepSpeed").setLevel(logging.CRITICAL)
    try:
        nodes = dict(fetch_hostfile(str(path)))
    except ValueError as error:
        raise BadInput(path, "", error, expected, "correct the file") from error
    if sum(nodes.values()) != ranks:
        remedy = "correct the slots, or set base.ranks"
        raise BadInput(path, "slots", f"{sum(nodes.values())} processes", f"base.ranks, {ranks}", remedy)
    return nodes


def read_node_rank(nodes: dict[str, int]) -> int | None:
    """The index of this node in the hostfile; None if ssh starts the nodes. Raises `BadInput` if it is not there."""
    value = os.environ.get(NODE_RANK)
    if value is None:
        return None
    remedy = f"correct {NODE_RANK} and {HOSTFILE}: both belong to a run on several nodes"
    if value not in map(str, range(len(nodes))):
        raise BadInput("the environment", NODE_RANK, repr(value), f"a node of the hostfile's {len(nodes)}", remedy)
    return int(value)


def _run_here(ranks: int, module: str, *arguments: str) -> int:
    """Start every rank on this machine. Returns: 0, or the exit status of the rank that failed first."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCHELASTIC_ERROR_FILE", os.devnull)
    # a rank reports what went wrong; if it could not, `main` reports how its process ended
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    start_method = "spawn"
    if (
        os.environ.get("DS_ACCELERATOR") == "cpu"
    ):  # CUDA does not survive a fork; without it, ranks share what is imported
        start_method = "fork"
        for name in (module, *_HEAVY):
            import_module(name)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method=start_method,
    )
    try:
        elastic_launch(config, _run_rank)(module, *arguments)
    except ChildFailedError as error:
        return next(iter(error.failures.values())).exitcode
    return 0


def _run_rank(module: str, *arguments: str) -> None:
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # it runs as __main__ here
    runpy.run_module(module, run_name="__main__")


def _run_on_nodes(nodes: dict[str, int], node: int | None, module: str, *arguments: str) -> int:
    from deepspeed.launcher import runner

    address, port = next(iter(nodes)), int(os.environ.get("MASTER_PORT", "29500"))
    options = [f"--master_addr={address}", f"--master_port={port}", "--no_local_rank", "--module"]
    if node is None:
        try:
            runner.main(
                [f"--hostfile={os.environ[HOSTFILE]}", "--force_multi", "--quiet", *options, module, *arguments]
            )
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    if node > 0:
        os.environ.setdefault("DVC_STAGE", module)  # so that its ranks, too, end with their launcher, as under DVC
        _wait_for_main_node(module, address, port)
    _announce_own_interface(address)
    world = runner.encode_world_info({name: list(range(slots)) for name, slots in nodes.items()})
    options += ["--log_level=critical", f"--world_info={world}", f"--node_rank={node}"]
    return subprocess.run(child_command("deepspeed.launcher.launch", *options, module, *arguments)).returncode


def _announce_own_interface(address: str) -> None:
    """Make gloo and NCCL announce the address from which this node reaches the main one.

    By default gloo announces what this host's name resolves to, which on many hosts is the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # connecting a UDP socket sends nothing
        except OSError:  # no address of this kind: leave the choice to gloo
            return
        local_address = probe.getsockname()[0]
    for interface, addresses in psutil.net_if_addrs().items():
        if not local_address.startswith("127.") and any(entry.address == local_address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def _wait_for_main_node(module: str, address: str, port: int) -> None:
    """Wait until rank 0 listens. Before that, the main node may still run earlier stages or read data."""
    print(f"{module}: waiting for the main node at {address}:{port}", file=sys.stderr)
    while True:
        try:
            socket.create_connection((address, port), timeout=_POLL_S).close()
        except OSError:
            time.sleep(_POLL_S)
        else:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
