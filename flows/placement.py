"""A stage that runs elsewhere: in a workspace on the machine of a work pool's worker.

It is sent the git revision and, through the store, `dvc.lock` and `params.yaml`. It returns, through the store, the
entry of `dvc.lock` that the stage wrote. What the stage reads and writes moves only through the DVC remote.
Every work pool has a deployment of the flow below, `stage/<work pool>` (prefect.yaml).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from world2act_client.errors import NotFound
from world2act_client.store import Store

from flows import remote
from flows.checkout import open_checkout
from flows.graph import is_current, read_graph
from flows.outcome import GOOD, Outcome, StageRun, reproduce
from flows.server import start_deployment
from flows.workspace import LOCK, merge_entry, read_entries
from world2act.artifacts.revision import git
from world2act.core.errors import BadInput
from world2act.core.params import PARAMS

SOURCE = "WORLD2ACT_SOURCE"
_POLL_S = 2.0
_SENT = (LOCK, PARAMS)


def check_placement(url: str | None) -> str:
    """Check that stages can be placed from this workspace. Returns the git revision that they run.

    Raises:
        BadInput: there is no DVC remote, or code is not committed.
    """
    if url is None:
        remedy = "run `dvc remote add --default store s3://bucket/prefix`, or set WORLD2ACT_STORE"
        raise BadInput("placement", "", "no DVC remote", "one: artifacts move only through it", remedy)
    changed = git(Path(), "status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in _SENT)).splitlines()
    if changed:
        raise BadInput(
            Path.cwd(),
            "",
            f"differs from HEAD: {', '.join(line[3:] for line in changed[:5])}",
            "committed code: another workspace has only what is in git",
            "commit or revert it, and push it",
        )
    return git(Path(), "rev-parse", "HEAD").strip()


@dataclass(frozen=True)
class Placement:
    """A work pool that runs a stage, with the code of `revision` and the data of `upstream` from the store at `url`."""

    pool: str
    upstream: list[str]
    url: str
    revision: str


def place(stage: str, placement: Placement) -> StageRun:
    """Run a stage on a work pool, unless DVC would skip it here, and pull its outputs.

    Raises:
        InfrastructureError, ReleaseError: the remote or the store does not work.
        LockBusy: another DVC process holds a lock that this one needs.
    """
    if is_current(stage):
        return StageRun(stage, Outcome.CACHED)
    remote.push(placement.upstream)
    pool, url = placement.pool, placement.url
    handover, store = f"handover/{flow_run.get_id()}/{stage}-{uuid4().hex[:8]}", Store(url)
    files = {str(path): path.read_text(encoding="utf-8") for path in _SENT if path.exists()}
    store.put_new(f"{handover}/request.json", json.dumps(files).encode())
    parameters = {"stage": stage, "store": url, "handover": handover, "revision": placement.revision}
    try:
        placed = start_deployment(
            f"stage/{pool}", handover, parameters=parameters, run_name=stage, tags=[f"stage:{stage}"], poll_s=_POLL_S
        )
    except ObjectNotFound:
        return StageRun(stage, Outcome.FAILED, message=f"no deployment stage/{pool}: see prefect.yaml", where=pool)
    try:
        result = json.loads(store.read(f"{handover}/result.json"))
    except NotFound:
        said = f"flow run {placed.name} on work pool {pool} ended as {placed.state}, without a result"
        return StageRun(stage, Outcome.FAILED, message=said, where=pool)
    run = StageRun(**result["run"] | {"outcome": Outcome(result["run"]["outcome"]), "where": pool})
    if run.outcome not in GOOD:
        return run
    merge_entry(stage, result["entry"])
    remote.pull([stage])
    if not is_current(stage):
        message = f"work pool {pool} ran {stage} on other inputs than the ones here: `dvc status {stage}` says which"
        return replace(run, outcome=Outcome.FAILED, message=message)
    return run


@flow(name="stage", flow_run_name="{stage}")
def run_placed_stage(stage: str, store: str, handover: str, revision: str, source: str | None = None) -> State[str]:
    """Run one stage in a workspace of this worker, for a pipeline that runs elsewhere.

    Args:
        store: the URL of the DVC remote, which also holds the handover.
        handover: its prefix there.
        revision: the git revision whose code to run.
        source: where to get it, a git URL or a folder; by default what WORLD2ACT_SOURCE names on this worker, or else
            the folder that this flow runs from.
    """
    objects = Store(store)
    files = json.loads(objects.read(f"{handover}/request.json"))
    with open_checkout(source or os.environ.get(SOURCE, "."), revision, store):
        for path in _SENT:
            if str(path) in files:
                path.write_text(files[str(path)], encoding="utf-8")
        remote.pull(read_graph(stage)[stage])
        run = reproduce(stage)
        if run.outcome in GOOD:
            remote.push([stage])
        entry = (read_entries(LOCK) or {}).get(stage)
    objects.put_new(f"{handover}/result.json", json.dumps({"run": asdict(run), "entry": entry}).encode())
    if run.outcome in GOOD:
        return Completed(name=run.outcome, message=f"{run.wall_s:.1f} s")
    return Failed(name=run.outcome, message=run.message)
