"""The tasks of the pipeline flow: a stage, and the transfers before the first and behind the last."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from world2act_client.errors import ReleaseError

from flows import remote
from flows.dvc_run import LockBusy
from flows.graph import is_current
from flows.outcome import GOOD, Outcome, StageRun, reproduce
from flows.placement import place
from flows.show import show_stage
from flows.workspace import keep_lock
from world2act.core.errors import World2ActError


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
        keep_lock()
        try:
            show_stage(run)
        except httpx.HTTPError as error:  # what the stage did is done, whether the server can show it or not
            print(f"{stage} | not shown in the UI: {error}", flush=True)
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
def pull_data(stages: list[str]) -> None:
    """Bring the data of stages that DVC finds unchanged, but without their data here."""
    remote.pull(stages)


@_retried(name="dvc push")
def push_data(stages: list[str]) -> None:
    """Send what the stages of this run that are done have written."""
    remote.push(stages)
