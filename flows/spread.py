"""A stage's shards on a Dask cluster, one Prefect task per shard, before DVC runs the stage and finds them computed.

In: what the stage reads. Out: its units in runs/<stage>/shards (world2act.core.sharding). The workers run the shards in
the folder of the pipeline: on a cluster it is a network volume, at the same path on every machine, and each
worker is started from it with one thread (`dask worker ADDRESS --nthreads 1`) and the PREFECT_API_URL of the flow.

    python -m flows.spread latents --shards 8 --address tcp://scheduler:8786
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from world2act.core.errors import BadInput, InfrastructureError, World2ActError
from world2act.processes.dvc_command import stage_environment
from world2act.processes.lifetime import child_command

SHARDED = ("latents", "rollouts", "evaluate")
_SHOWN_LINES = 20


def spread_stage(stage: str, shards: int, address: str | None = None) -> None:
    """Compute a stage's missing units in `shards` parallel shards. A shard that fails does not stop the others.

    Args:
        stage: one of `SHARDED`.
        address: of a Dask scheduler; without it DASK_SCHEDULER_ADDRESS names it, as everywhere in Dask, and without
            that, processes of this machine are the cluster.

    Raises:
        BadInput: the stage has no shards.
        World2ActError: shards failed; run again, and what they had finished is kept.
    """
    if stage not in SHARDED:
        raise BadInput("the flow's parameters", "spread", stage, f"one of {', '.join(SHARDED)}", "leave it out")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # read when it is imported, here and by the workers
    from dask import config
    from prefect_dask.task_runners import DaskTaskRunner

    # the bytes depend on torch's number of threads: the shards have the stage's, and the cores decide how many run
    cores = len(os.sched_getaffinity(0))
    threads = int(os.environ.get("OMP_NUM_THREADS", cores))
    workers = {"n_workers": max(1, min(shards, cores // threads)), "threads_per_worker": 1, "dashboard_address": ":0"}
    address = address or config.get("scheduler-address", None)
    runner: TaskRunner[Any] = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=workers)
    with _one_server():
        run_shards.with_options(task_runner=runner)(stage, shards, str(Path.cwd()), threads)


@contextmanager
def _one_server() -> Iterator[None]:
    """Without PREFECT_API_URL, the workers share the server of this process instead of starting one each."""
    if PREFECT_API_URL.value():
        yield
        return
    server = SubprocessASGIServer()
    server.start()
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield


@flow(name="spread", flow_run_name="spread-{stage}")
def run_shards(stage: str, shards: int, workspace: str, threads: int) -> None:
    """Run all shards and wait for each. Raises `World2ActError` at the end where some failed."""
    names = [f"{k + 1}/{shards}" for k in range(shards)]
    futures = {name: compute_shard.submit(stage, name, workspace, threads) for name in names}
    failed: dict[str, Exception] = {}
    for name, future in futures.items():
        try:
            future.result()
        except Exception as error:  # of any kind: a worker may have died, and the other shards are to be waited for
            failed[name] = error
    if failed:
        first = next(iter(failed.values()))
        raise World2ActError(f"{stage}: {len(failed)} of {shards} shards failed: {', '.join(failed)}\n{first}")


@task(task_run_name="{stage} {shard}", cache_policy=NO_CACHE)
def compute_shard(stage: str, shard: str, workspace: str, threads: int) -> str:
    """Run one shard as a child process: a worker of Dask may not have children of `multiprocessing`.

    Returns:
        what the shard said of itself.

    Raises:
        InfrastructureError: the folder is not there, or the shard failed; the message holds its last lines.
    """
    if not (Path(workspace) / "dvc.yaml").is_file():
        raise InfrastructureError(f"{workspace}: no pipeline here: the workers share the folder of the pipeline")
    done = subprocess.run(
        child_command(f"stages.{stage}", "--shard", shard),
        cwd=workspace,
        env=stage_environment() | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = done.stdout.splitlines()[-_SHOWN_LINES:]
    if done.returncode:
        said = "\n".join(lines)
        raise InfrastructureError(f"{stage}: shard {shard} ended with exit status {done.returncode}\n{said}")
    return lines[-1]


def main(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(SHARDED)}.")],
    shards: Annotated[int, typer.Option(min=1, help="How many shards.")],
    address: Annotated[str | None, typer.Option(help="A Dask scheduler; else, processes here.")] = None,
) -> None:
    """Compute a stage's units over Dask; the stage then only puts them together."""
    try:
        spread_stage(stage, shards, address)
    except World2ActError as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
