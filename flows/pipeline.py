"""dvc.yaml as a Prefect flow: one task per stage, with independent branches in parallel.

Input: the graph that DVC reads from dvc.yaml. Output: what the stages write, and artifacts in Prefect's UI.
Run it in the root of the pipeline: `python -m flows.pipeline --help`. It starts a temporary server unless
PREFECT_API_URL names one.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Annotated, Any, cast
from uuid import UUID

import typer
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from world2act_client.errors import ReleaseError

from flows import remote
from flows.dvc_run import end_running
from flows.graph import Standing, read_graph, standings
from flows.outcome import GOOD, Outcome, StageRun
from flows.placement import Placement, check_placement
from flows.show import render_table
from flows.tasks import Plan, StageFailed, pull_data, push_data, run_stage
from flows.workspace import WorkspaceBusy, hold_workspace
from world2act.core.errors import BadInput, World2ActError

_PARALLEL = 2


# By run of the flow, in the process that ran it. The state does not carry it: when the answer to "this run has ended"
# is lost, Prefect sends it again, is told that the run has ended already, and returns the server's state without data.
_RUNS: dict[UUID, list[StageRun]] = {}


def _threads(parallel: int) -> TaskRunner[PrefectFuture[Any]]:
    """A runner of that many stages at once. Prefect's signatures do not admit its own runner."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner[Any](max_workers=parallel))


@flow(name="pipeline", task_runner=_threads(_PARALLEL))
def pipeline(
    target: str | None = None,
    pull: bool = False,
    push: bool = False,
    placement: dict[str, str] | None = None,
    spread: dict[str, int] | None = None,
    wait_for_workspace_s: float = 0,
) -> State[None]:
    """Run every stage of dvc.yaml that changed. A stage downstream of a failed one does not run.

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
    except BaseException:  # cancelled: no stage may go on after it
        end_running()
        raise


def _run(
    target: str | None, pulls: bool, pushes: bool, placement: dict[str, str], spread: dict[str, int]
) -> State[None]:
    graph = read_graph(target)
    url = remote.use_store() if pulls or pushes or placement else None
    notes = ["no DVC remote is configured: nothing is pulled or pushed"] if (pulls or pushes) and not url else []
    _check_names(placement, spread)
    revision = check_placement(url) if placement else ""
    found = standings(graph)
    absent = [stage for stage in graph if found[stage] is Standing.ABSENT]
    if pulls and url and absent:
        pull_data(absent)
        found = standings(graph)
    plans = {stage: Plan(shards=spread.get(stage)) for stage in graph}
    if url:
        plans |= {
            stage: Plan(placement=Placement(pool, graph[stage], url, revision)) for stage, pool in placement.items()
        }
    plans |= {stage: Plan(current=True) for stage in graph if found[stage] is Standing.CURRENT}
    runs = _run_stages(graph, plans)
    done = [run.stage for run in runs if run.outcome in GOOD]
    if pushes and url and done:
        push_data(done)
    _RUNS[UUID(flow_run.get_id())] = runs
    table = "\n\n".join([render_table(runs), *notes])
    create_markdown_artifact(table, key="world2act-pipeline", description="The stages of this run")
    bad = [run.stage for run in runs if run.outcome not in GOOD]
    if bad:
        return Failed(message=f"{len(bad)} of {len(runs)} stages are not done: {', '.join(bad)}")
    return Completed(message=". ".join([f"{len(runs)} stages are up to date", *notes]))


def _check_names(placement: dict[str, str], spread: dict[str, int]) -> None:
    stages = read_graph() if placement or spread else {}
    for where, names in ("placement", placement.keys()), ("spread", spread.keys()):
        if unknown := ", ".join(sorted(names - stages.keys())):
            raise BadInput(where, unknown, "no such stage", f"one of {', '.join(stages)}", "correct the name")
    if both := ", ".join(sorted(placement.keys() & spread.keys())):
        raise BadInput("spread", both, "placed on a work pool too", "one of the two", "leave one out")


def _run_stages(graph: dict[str, list[str]], plans: dict[str, Plan]) -> list[StageRun]:
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    futures: dict[str, PrefectFuture[State[StageRun]]] = {}
    running: dict[PrefectFuture[State[StageRun]], str] = {}
    while sorter.is_active():
        for stage in sorter.get_ready():
            waits = [futures[upstream] for upstream in graph[stage]]
            futures[stage] = run_stage.submit(stage, plans[stage], wait_for=waits, return_state=False)
            running[futures[stage]] = stage
        sorter.done(running.pop(next(as_completed(list(running)))))
    return [_stage_run(stage, futures[stage]) for stage in graph]


def runs_of(state: State[Any]) -> list[StageRun]:
    """The outcome of each stage in a run of the flow, by the state that the flow returned to this process.

    Empty if the run was refused before its first stage.
    """
    run_id = state.state_details.flow_run_id
    return _RUNS.get(run_id, []) if run_id else []


def _stage_run(stage: str, future: PrefectFuture[State[StageRun]]) -> StageRun:
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
    state = pipeline.with_options(task_runner=_threads(parallel))(target, return_state=True)
    for run in runs_of(state):
        print(f"{run.stage:<24}{run.outcome:<12}{run.wall_s:8.1f} s")
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
