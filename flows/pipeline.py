"""dvc.yaml as a Prefect flow: one task a stage, independent branches side by side.

Comes in: the graph that DVC reads from dvc.yaml. Goes out: what the stages write, and artifacts in Prefect's UI.
Run it in the root of the pipeline: `python -m flows.pipeline --help`. It brings its own server along unless
PREFECT_API_URL names one.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import Annotated

import typer
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from world2act_client.errors import ReleaseError

from flows import remote
from flows.dvc_run import LockBusy, end_running
from flows.graph import Standing, is_current, read_graph, standings
from flows.outcome import GOOD, Outcome, StageRun, reproduce
from flows.placement import check_placement, place
from flows.show import render_table, show_stage
from flows.workspace import WorkspaceBusy, hold_workspace, keep_lock
from world2act.errors import World2ActError

_PARALLEL = 2


class StagesFailed(Exception):
    """Carries every `StageRun` of a run that failed through Prefect."""

    def __init__(self, runs: list[StageRun]) -> None:
        super().__init__(runs)
        self.runs = runs


class StageFailed(Exception):
    """Carries the `StageRun` of a failed stage through Prefect."""

    def __init__(self, run: StageRun) -> None:
        super().__init__(run)
        self.run = run


def _is_lock_busy(_task: object, _run: object, state: State[object]) -> bool:
    return isinstance(state.data, LockBusy)


_retried = task(retries=20, retry_delay_seconds=3, retry_condition_fn=_is_lock_busy, cache_policy=NO_CACHE)


@_retried(name="stage", task_run_name="{stage}")
def run_stage(stage: str, how: Mapping[str, object]) -> State[StageRun]:
    """Let DVC run one stage if it changed: here, or on a work pool.

    Args:
        how: `current` (DVC said already that nothing changed), or `shards` (spread its episodes first), or the
            arguments of `place`; empty for a process of DVC here.

    Raises:
        LockBusy: another DVC process stood in the way; Prefect tries again.
    """
    try:
        run = _run_stage(stage, dict(how))
    except (World2ActError, ReleaseError) as error:
        run = StageRun(stage, Outcome.FAILED, message=f"{type(error).__name__}: {error}")
    if run.outcome is not Outcome.CACHED:
        show_stage(run)
        keep_lock()
    if run.outcome in GOOD:
        return Completed(name=run.outcome, message=f"{run.wall_s:.1f} s", data=run)
    return Failed(name=run.outcome, message=run.message, data=StageFailed(run))


def _run_stage(stage: str, how: dict[str, object]) -> StageRun:
    if how.get("current"):
        return StageRun(stage, Outcome.CACHED)
    if "pool" in how:
        return place(stage, **how)
    if "shards" in how and not is_current(stage):
        from flows.spread import spread_stage

        spread_stage(stage, how["shards"], None)
    return reproduce(stage)


@_retried(name="dvc pull")
def pull(stages: list[str]) -> None:
    """Bring the data of stages that DVC finds unchanged, but without their data here."""
    remote.pull(stages)


@_retried(name="dvc push")
def push(stages: list[str]) -> None:
    """Send what the stages of this run that are done have written."""
    remote.push(stages)


@flow(name="pipeline", task_runner=ThreadPoolTaskRunner(max_workers=_PARALLEL))
def pipeline(
    target: str | None = None,
    pull: bool = False,
    push: bool = False,
    placement: dict[str, str] | None = None,
    spread: dict[str, int] | None = None,
    wait_for_workspace_s: float = 0,
) -> State[list[StageRun]]:
    """Run every stage of dvc.yaml that changed. A stage behind a failed one does not run.

    Args:
        target: run only this stage and what it needs.
        pull: first bring, from the DVC remote, data that is missing here and needs no run. Nothing without a remote.
        push: at the end send what was made, also after a failed stage. Nothing without a remote.
        placement: a work pool for each stage that runs elsewhere; see `flows.placement`.
        spread: for a stage over episodes, into how many parts to spread them; see `flows.spread`.
        wait_for_workspace_s: how long to wait for another run in this workspace before this one is refused.
    """
    try:
        with hold_workspace(flow_run.get_name() or "pipeline", wait_for_workspace_s):
            return _run(target, pull, push, placement or {}, spread or {})
    except WorkspaceBusy as error:
        return Failed(name="Workspace busy", message=str(error), data=error)
    except (World2ActError, ReleaseError) as error:
        return Failed(message=f"{type(error).__name__}: {error}", data=error)
    except BaseException:  # cancelled: no stage goes on behind it
        end_running()
        raise


def _run(
    target: str | None, pulls: bool, pushes: bool, placement: dict[str, str], spread: dict[str, int]
) -> State[list[StageRun]]:
    graph = read_graph(target)
    url = remote.use_store() if pulls or pushes or placement else None
    notes = ["no DVC remote is configured: nothing is pulled or pushed"] if (pulls or pushes) and not url else []
    revision = check_placement(placement, graph, url) if placement else ""
    found = standings(graph)
    absent = [stage for stage in graph if found[stage] is Standing.ABSENT]
    if pulls and url and absent:
        pull(absent)
        found = standings(graph)
    how: dict[str, dict[str, object]] = {stage: {} for stage in graph}
    how |= {stage: {"shards": shards} for stage, shards in spread.items()}
    how |= {
        stage: {"pool": pool, "upstream": graph[stage], "url": url, "revision": revision}
        for stage, pool in placement.items()
    }
    how |= {stage: {"current": True} for stage in graph if found[stage] is Standing.CURRENT}
    runs = _run_stages(graph, how)
    done = [run.stage for run in runs if run.outcome in GOOD]
    if pushes and url and done:
        push(done)
    table = "\n\n".join([render_table(runs), *notes])
    create_markdown_artifact(table, key="world2act-pipeline", description="The stages of this run")
    bad = [run.stage for run in runs if run.outcome not in GOOD]
    if bad:
        return Failed(
            message=f"{len(bad)} of {len(runs)} stages are not done: {', '.join(bad)}", data=StagesFailed(runs)
        )
    return Completed(message=". ".join([f"{len(runs)} stages are up to date", *notes]), data=runs)


def _run_stages(graph: dict[str, list[str]], how: dict[str, dict[str, object]]) -> list[StageRun]:
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    futures: dict[str, PrefectFuture[StageRun]] = {}
    running: dict[PrefectFuture[StageRun], str] = {}
    while sorter.is_active():
        for stage in sorter.get_ready():
            waits = [futures[upstream] for upstream in graph[stage]]
            futures[stage] = run_stage.submit(stage, how[stage], wait_for=waits)
            running[futures[stage]] = stage
        sorter.done(running.pop(next(as_completed(list(running)))))
    return [_stage_run(stage, futures[stage]) for stage in graph]


def runs_of(state: State[list[StageRun]]) -> list[StageRun]:
    """What became of each stage in a run of the flow; nothing, where it was refused before the first."""
    match state.result(raise_on_failure=False):
        case list() as runs:
            return runs
        case StagesFailed(runs=runs):
            return runs
    return []


def _stage_run(stage: str, future: PrefectFuture[StageRun]) -> StageRun:
    future.wait()
    state = future.state
    match state.result(raise_on_failure=False) if state.is_final() else None:
        case StageRun() as run:
            return run
        case StageFailed(run=run):
            return run
        case None:
            return StageRun(stage, Outcome.NOT_RUN)
        case error:
            return StageRun(stage, Outcome.FAILED, message=repr(error))


def main(
    target: Annotated[str | None, typer.Option(help="Run only this stage and what it needs.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="How many stages may run at once.")] = _PARALLEL,
) -> None:
    """Run dvc.yaml as a Prefect flow. Exits with 1 when a stage failed or a gate is red."""
    try:
        read_graph(target)
    except KeyError as error:
        raise typer.BadParameter(error.args[0], param_hint="--target") from error
    state = pipeline.with_options(task_runner=ThreadPoolTaskRunner(max_workers=parallel))(target, return_state=True)
    for run in runs_of(state):
        print(f"{run.stage:<24}{run.outcome:<12}{run.wall_s:8.1f} s")
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
