"""Garbage collection as a flow: delete what nothing refers to any more from the store, never what a release needs.

Run it in the root of a complete clone of the pipeline: `python -m flows.collect_garbage --help`.
"""

from __future__ import annotations

from typing import Annotated

import typer
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from world2act_client.errors import ReleaseError

from world2act.artifacts.garbage import GRACE_DAYS, Sweep
from world2act.artifacts.garbage import collect_garbage as sweep_store
from world2act.artifacts.tables import human, sweep_rows
from world2act.core.errors import World2ActError


def _run_name() -> str:
    return "look for garbage" if flow_run.get_parameters()["dry_run"] else "delete garbage"


@flow(name="collect_garbage", flow_run_name=_run_name)
def collect_garbage(
    dry_run: bool = True, grace_days: float = GRACE_DAYS, all_commits: bool = False, store: str | None = None
) -> State[Sweep]:
    """Find the DVC objects in the store that no release, no git reference and no run names, and delete them.

    Args:
        dry_run: only count them.
        grace_days: keep younger objects.
        all_commits: keep what any commit refers to, not only branches and tags.
        store: the store's URL; by default WORLD2ACT_STORE, or DVC's default remote.
    """
    try:
        sweep = sweep_store(
            store=store,
            dry_run=dry_run,
            grace_days=grace_days,
            all_commits=all_commits,
            progress=get_run_logger().info,
        )
    except (World2ActError, ReleaseError) as error:
        return Failed(message=f"{type(error).__name__}: {error}")
    rows = [{"": title, "objects": amount.objects, "size": human(amount.size)} for title, amount in sweep_rows(sweep)]
    what = "found" if dry_run else "deleted"
    words = f"{what} {sweep.garbage.objects} objects, {human(sweep.garbage.size)}, that nothing names"
    create_table_artifact(rows, key="world2act-garbage", description=words)
    return Completed(message=words, data=sweep)


def main(
    delete: Annotated[bool, typer.Option("--delete", help="Delete the garbage; otherwise only count it.")] = False,
    grace_days: Annotated[float, typer.Option(min=0, help="Keep younger objects.")] = GRACE_DAYS,
) -> None:
    """Find garbage in the store. Exits with 1 if the collection failed."""
    state = collect_garbage(not delete, grace_days, return_state=True)
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
