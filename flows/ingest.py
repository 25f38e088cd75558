"""New demonstrations in the store → validated → a new data version → a run of the pipeline.

Input: LeRobot v3.0 datasets under a prefix of the store, which may be half-written, damaged or repeated. Output:
data/ingested (tracked by DVC), its two small files, a table in Prefect's UI, and one run of the pipeline per new
version. `python -m flows.ingest --help`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from world2act_client.errors import ReleaseError, Unreachable
from world2act_client.store import Store

from flows.remote import use_store
from flows.server import start_deployment
from flows.workspace import WorkspaceBusy, hold_workspace
from world2act.collection.ingested import OUTCOMES, SET_ASIDE, TAKEN, Index, LedgerRow
from world2act.core.errors import BadInput, World2ActError
from world2act.core.params import load_params
from world2act.core.stage import RUNS
from world2act.core.storage import read_json, write_json
from world2act.ingest.run import Pass, run_pass

PIPELINE = "pipeline/pipeline"
_TRIGGERED = RUNS / "ingest/triggered.json"
_SHOWN = 100


def _is_unreachable(_task: object, _run: object, state: State[object]) -> bool:
    return isinstance(state.data, Unreachable)


@task(retries=3, retry_delay_seconds=[10, 60, 300], retry_condition_fn=_is_unreachable, cache_policy=NO_CACHE)
def look(prefix: str, stale_after_hours: float, commit: bool) -> Pass:
    """One pass over the prefix; retried if the store does not answer."""
    if not prefix.endswith("/") or prefix.startswith("/"):
        raise BadInput(
            "ingest", "prefix", prefix, "a prefix in the store that ends with /", "name a folder, such as incoming/"
        )
    url = use_store()
    if url is None:
        remedy = "set WORLD2ACT_STORE, or run `dvc remote add --default store s3://bucket/prefix`"
        raise BadInput("WORLD2ACT_STORE", "", "not set, and DVC has no default remote", "s3://bucket/prefix", remedy)
    stale_after = timedelta(hours=stale_after_hours)
    return run_pass(Store(url), prefix, load_params(), stale_after=stale_after, commit=commit)


@task(cache_policy=NO_CACHE)
def trigger_pipeline(index: Index) -> None:
    """Start the pipeline for a data version; calling this again starts no second run."""
    key = f"data-v{index['version']}-{index['sha256']}"
    tags = [f"data-v{index['version']}"]
    started = start_deployment(PIPELINE, key, tags=tags, as_subflow=False, timeout_s=0)
    write_json(_TRIGGERED, {"sha256": index["sha256"], "flow_run": str(started.id)})


@flow(name="ingest")
def ingest(
    prefix: str = "incoming/",
    stale_after_hours: float = 24.0,
    commit: bool = False,
    trigger: bool = True,
    wait_for_workspace_s: float = 0,
) -> State[Pass]:
    """Look for new demonstrations once. Also ends Completed if uploads were set aside; the reasons are shown.

    Args:
        prefix: where uploads arrive, in the store.
        stale_after_hours: how long an incomplete upload may receive nothing before it counts as stale.
        commit: commit data/ingested.dvc and data/ingested.json to git, and nothing else.
        trigger: run the pipeline if it was not yet run for the data version.
        wait_for_workspace_s: how long to wait for another run in this workspace before this one is refused.
    """
    try:
        with hold_workspace(flow_run.get_name() or "ingest", wait_for_workspace_s):
            seen = look(prefix, stale_after_hours, commit)
        show(seen)
        if seen.episodes:
            _announce(seen)
        if trigger and seen.index["version"] and _triggered() != seen.index["sha256"]:
            trigger_pipeline(seen.index)
    except WorkspaceBusy as error:
        return Failed(name="Workspace busy", message=str(error))
    except ObjectNotFound:
        remedy = "create it with `make serve`; the data version is kept, and the next pass tries again"
        return Failed(message=f"there is no deployment {PIPELINE} to run the pipeline: {remedy}")
    except (World2ActError, ReleaseError) as error:
        return Failed(message=f"{type(error).__name__}: {error}")
    return Completed(message=summarise(seen), data=seen)


def summarise(seen: Pass) -> str:
    """A pass in one line."""
    counts = {outcome: seen.count(outcome) for outcome in OUTCOMES}
    counts["wait"] = len(seen.waiting)
    counts["stale"] = sum(upload.stale for upload in seen.waiting)
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing new"
    return (
        f"data version {seen.index['version']}, {seen.episodes} new episodes; {words}; "
        f"{seen.known} known before, {seen.objects} objects"
    )


def show(seen: Pass) -> None:
    """Show a table in Prefect's UI: what this pass decided, what waits, and what earlier passes set aside."""
    rows = [(row.upload, row.outcome, _reason(row)) for row in seen.decided]
    rows += [(upload.folder, "stale" if upload.stale else "waits", upload.reason) for upload in seen.waiting]
    rows += [(folder, f"{SET_ASIDE}, before", reason) for folder, reason in sorted(seen.standing.items())]
    lines = ["| upload | state | why |", "|---|---|---|"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows[:_SHOWN]]
    notes = [summarise(seen)]
    if len(rows) > _SHOWN:
        notes.append(f"and {len(rows) - _SHOWN} more")
    if seen.strays.count:
        notes.append(f"{seen.strays.count} objects are no part of a LeRobot dataset, the first: `{seen.strays.first}`")
    text = "\n\n".join(["\n".join(lines), *notes])
    create_markdown_artifact(text, key="world2act-ingest", description="What arrived")


def _announce(seen: Pass) -> None:
    emit_event(
        event="world2act.data.ingested",
        resource={
            "prefect.resource.id": "world2act.data.ingested",
            "prefect.resource.name": f"data version {seen.index['version']}",
        },
        payload={
            **seen.index,
            "new_episodes": seen.episodes,
            "uploads": [row.upload for row in seen.decided if row.outcome == TAKEN],
        },
    )


def _triggered() -> str:
    return read_json(_TRIGGERED)["sha256"] if _TRIGGERED.exists() else ""


def _reason(row: LedgerRow) -> str:
    taken = f"{len(row.episodes)} episodes, {row.kind.replace('_', '-')}" if row.episodes else ""
    return ". ".join(filter(None, (taken, row.reason)))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(
    prefix: Annotated[str, typer.Option(help="Where uploads arrive, in the store.")] = "incoming/",
    commit: Annotated[bool, typer.Option(help="Commit the data version's two small files to git.")] = False,
    trigger: Annotated[bool, typer.Option(help="Run the pipeline's deployment on a new version.")] = False,
) -> None:
    """Look for new demonstrations once. Exits with 1 when that failed."""
    state = ingest(prefix, commit=commit, trigger=trigger, return_state=True)
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
