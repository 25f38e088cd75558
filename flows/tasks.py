"""The tasks of the pipeline flow: a stage, and the transfers before the first and after the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import httpx
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from world2act_client.errors import ReleaseError

from flows import remote
from flows.dvc_run import LockBusy
from flows.graph import is_current
from flows.outcome import GOOD, Outcome, StageRun, reproduce
from flows.placement import Placement, place
from flows.show import show_stage
from flows.workspace import keep_lock
from world2act.core.errors import World2ActError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Plan:
    """How a stage runs; without any of these, DVC runs it in this workspace.

    Attributes:
        current: do not run it, because DVC already reported that nothing changed.
        shards: the number of shards to spread its episodes over first.
        placement: run it in another workspace.
    """

    current: bool = False
    shards: int | None = None
    placement: Placement | None = None


class StageFailed(Exception):
    """Carries the `StageRun` of a failed stage through Prefect."""

    def __init__(self, run: StageRun) -> None:
        super().__init__(run)
        self.run = run


def _is_lock_busy(_task: object, _run: object, state: State[object]) -> bool:
    return isinstance(state.data, LockBusy)


def _retried(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that waits for another DVC process to release its lock."""
    return task(
        name=name,
        task_run_name=run_name,
        retries=20,
        retry_delay_seconds=3,
        retry_condition_fn=_is_lock_busy,
        cache_policy=NO_CACHE,
    )


@_retried("stage", "{stage}")
def run_stage(stage: str, plan: Plan) -> State[StageRun]:
    """Let DVC run one stage if it changed: here, or on a work pool.

    Args:
        plan: where and how.

    Raises:
        LockBusy: another DVC process holds a lock; Prefect tries again.
    """
    try:
        run = _run_stage(stage, plan)
    except (World2ActError, ReleaseError) as error:
        run = StageRun(stage, Outcome.FAILED, message=f"{type(error).__name__}: {error}")
    if run.outcome is not Outcome.CACHED:
        keep_lock()
        try:
            show_stage(run)
        except httpx.HTTPError as error:  # the stage is done, whether or not the server can show it
            print(f"{stage} | not shown in the UI: {error}", flush=True)
    if run.outcome in GOOD:
        return Completed(name=run.outcome, message=f"{run.wall_s:.1f} s", data=run)
    return Failed(name=run.outcome, message=run.message, data=StageFailed(run))


def _run_stage(stage: str, plan: Plan) -> StageRun:
    if plan.current:
        return StageRun(stage, Outcome.CACHED)
    if plan.placement:
        return place(stage, plan.placement)
    if plan.shards and not is_current(stage):
        from flows.spread import spread_stage

        spread_stage(stage, plan.shards, None)
    return reproduce(stage)


@_retried("dvc pull")
def pull_data(stages: list[str]) -> None:
    """Pull the outputs of stages that DVC finds unchanged but whose data is missing here."""
    remote.pull(stages)


@_retried("dvc push")
def push_data(stages: list[str]) -> None:
    """Push the outputs of the stages that this run has finished."""
    remote.push(stages)
