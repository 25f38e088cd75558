"""dvc.yaml as a Prefect flow: one task a stage, independent branches side by side.

Comes in: the graph that DVC reads from dvc.yaml. Goes out: what the stages write, and a markdown artifact with the
state of every stage. Run it in the root of the pipeline: `python -m flows.pipeline --help`. It brings its own
server along unless PREFECT_API_URL names one.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import Annotated

import networkx as nx
import typer
from dvc.repo import Repo
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from world2act.dvc_process import dvc_command, stage_environment

_GATE = "validate_"
_LOCK_BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
_UNCHANGED = re.compile(r"^Stage '.*' (didn't change, skipping|is cached - skipping run)", re.MULTILINE)
_GATE_RED = re.compile(r"\bGateFailed: ")
_ADVICE = re.compile(r"\s*$|To (track|enable)|\s+(git add|dvc config)|Use `dvc push`|Data and pipelines are up")
_SHOWN_LINES = 20


class Outcome(StrEnum):
    """How a stage ended; also the name of its Prefect state."""

    RAN = "Ran"
    CACHED = "Cached"
    GATE_FAILED = "Gate failed"
    FAILED = "Failed"
    NOT_RUN = "Not run"


@dataclass(frozen=True)
class StageRun:
    """One stage in one run of the flow; `message` holds its last lines when it failed."""

    stage: str
    outcome: Outcome
    wall_s: float = 0.0
    message: str = ""


class LockBusy(Exception):
    """Another DVC process held the repository."""


class StageFailed(Exception):
    """Carries the `StageRun` of a failed stage through Prefect."""

    def __init__(self, run: StageRun) -> None:
        super().__init__(run)
        self.run = run


def read_graph(target: str | None = None) -> dict[str, list[str]]:
    """Every stage and the stages that it reads from, as DVC resolves dvc.yaml; upstream stages come first.

    Args:
        target: keep only this stage and what it needs.

    Raises:
        KeyError: dvc.yaml has no stage of that name.
    """
    with Repo() as repo:
        graph = nx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
    if target is not None:
        if target not in graph:
            raise KeyError(f"no stage {target!r} in dvc.yaml; it has {', '.join(sorted(graph))}")
        graph = graph.subgraph({target} | nx.descendants(graph, target))
    return {stage: sorted(graph[stage]) for stage in nx.lexicographical_topological_sort(graph.reverse())}


def _is_lock_busy(_task: object, _run: object, state: State[object]) -> bool:
    return isinstance(state.data, LockBusy)


@task(
    task_run_name="{stage}",
    retries=20,
    retry_delay_seconds=3,
    retry_condition_fn=_is_lock_busy,
    cache_policy=NO_CACHE,
)
def run_stage(stage: str) -> State[StageRun]:
    """Let DVC run one stage if it changed, echoing what it says.

    Raises:
        LockBusy: another DVC process stood in the way; Prefect tries again.
    """
    started = time.monotonic()
    code, lines = _reproduce(stage)
    wall_s = time.monotonic() - started
    text = "\n".join(lines)
    if code == 0:
        outcome = Outcome.CACHED if _UNCHANGED.search(text) else Outcome.RAN
        return Completed(name=outcome, message=f"{wall_s:.1f} s", data=StageRun(stage, outcome, wall_s))
    if _LOCK_BUSY.search(text):
        raise LockBusy(stage)
    outcome = Outcome.GATE_FAILED if _GATE_RED.search(text) else Outcome.FAILED
    return Failed(name=outcome, message=text, data=StageFailed(StageRun(stage, outcome, wall_s, text)))


def _reproduce(stage: str) -> tuple[int, deque[str]]:
    """Returns: DVC's exit code and the last lines it printed."""
    # DVC lets go of its lock while a stage runs and takes it again to record the outputs: there, a stage that has
    # run for an hour must wait for the lock instead of failing.
    command = dvc_command("--wait-for-lock", "repro", "--single-item", stage)
    lines: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        command, env=stage_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not _ADVICE.match(line):
                lines.append(line.rstrip())
                print(f"{stage} | {lines[-1]}", flush=True)
    return process.returncode, lines


@flow(name="world2act")
def pipeline(target: str | None = None) -> State[list[StageRun]]:
    """Run every stage of dvc.yaml, or `target` and what it needs. A stage behind a failed one does not run."""
    graph = read_graph(target)
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    futures: dict[str, PrefectFuture[StageRun]] = {}
    running: dict[PrefectFuture[StageRun], str] = {}
    while sorter.is_active():
        for stage in sorter.get_ready():
            futures[stage] = run_stage.submit(stage, wait_for=[futures[upstream] for upstream in graph[stage]])
            running[futures[stage]] = stage
        sorter.done(running.pop(next(as_completed(list(running)))))
    runs = [_stage_run(stage, futures[stage]) for stage in graph]
    create_markdown_artifact(render_table(runs), key="world2act-pipeline", description="The stages of this run")
    bad = [run.stage for run in runs if run.outcome not in (Outcome.RAN, Outcome.CACHED)]
    if bad:
        return Failed(message=f"{len(bad)} of {len(runs)} stages are not done: {', '.join(bad)}", data=runs)
    return Completed(message=f"{len(runs)} stages are up to date", data=runs)


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


def render_table(runs: list[StageRun]) -> str:
    """Markdown: one row a stage with its state, its seconds and the state of its gate; then why each one failed."""
    by_stage = {run.stage: run for run in runs}
    rows = ["| stage | state | seconds | gate |", "|---|---|---:|---|"]
    for run in runs:
        if not run.stage.startswith(_GATE):
            gate = by_stage.get(_GATE + run.stage)
            rows.append(f"| {run.stage} | {run.outcome} | {run.wall_s:.1f} | {gate.outcome if gate else ''} |")
    reasons = [f"**{run.stage}**\n\n```\n{run.message}\n```" for run in runs if run.message]
    return "\n\n".join(["\n".join(rows), *reasons])


def main(
    target: Annotated[str | None, typer.Option(help="Run only this stage and what it needs.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="How many stages may run at once.")] = 2,
) -> None:
    """Run dvc.yaml as a Prefect flow. Exits with 1 when a stage failed or a gate is red."""
    try:
        read_graph(target)
    except KeyError as error:
        raise typer.BadParameter(error.args[0], param_hint="--target") from error
    state = pipeline.with_options(task_runner=ThreadPoolTaskRunner(max_workers=parallel))(target, return_state=True)
    for run in state.result(raise_on_failure=False):
        print(f"{run.stage:<24}{run.outcome:<12}{run.wall_s:8.1f} s")
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
