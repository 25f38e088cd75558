"""Evaluate a released policy again and compare it with its recorded results; an event reports a regression.

`evaluations/<name>/v000001/<time>.json` holds every episode. `python -m flows.check_release --help`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed
from world2act_client.errors import ReleaseError, Unreachable
from world2act_client.get import get
from world2act_client.manifest import Manifest
from world2act_client.store import Store

from world2act.artifacts.registry import open_registry
from world2act.core.errors import World2ActError
from world2act.evaluation.regression import ComparedEpisode, Comparison, compare_with_record, describe_packages

REGRESSED_EVENT = "world2act.policy.regressed"


def _is_unreachable(_task: object, _run: object, state: State[object]) -> bool:
    return isinstance(state.data, Unreachable)


_retried = task(retries=2, retry_delay_seconds=[10, 60], retry_condition_fn=_is_unreachable, cache_policy=NO_CACHE)


@_retried
def fetch(reference: str, destination: Path, store: Store) -> Manifest:
    """Get the release, verified."""
    return get(reference, destination, store=store, progress=False)


@task(cache_policy=NO_CACHE)
def act(policy: Path, manifest: Manifest, workers: int) -> Comparison:
    """Run the scenes of the record."""
    return compare_with_record(policy, manifest, workers)


@_retried
def keep(store: Store, manifest: Manifest, comparison: Comparison) -> str:
    """Add the evaluation to the store, never replacing another one. Returns its key."""
    content = {
        "schema": 1,
        "name": manifest.name,
        "version": manifest.version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": describe_packages(manifest),
        **comparison.figures(),
        "episodes": list(comparison.episodes),
    }
    text = json.dumps(content, indent=2, sort_keys=True).encode()
    while True:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        key = f"evaluations/{manifest.name}/v{manifest.version:06d}/{stamp}.json"
        if store.put_new(key, text):
            return key


@flow(name="check_release")
def check_release(reference: str = "policy@prod", workers: int = 2) -> State[Comparison]:
    """Evaluate a released policy again, as its manifest says, and compare it with its record.

    A regression ends Failed, under the name Regressed, so that dashboards and automations on failed runs see it.
    Episodes that the simulator lost count neither way. Too many of them, or a store that does not answer, end Failed
    under that name, without an event that the policy got worse.

    Args:
        reference: NAME@CHANNEL, NAME@vVERSION or NAME@latest.
        workers: simulator processes.
    """
    try:
        store = open_registry().store
        with tempfile.TemporaryDirectory() as folder:
            manifest = fetch(reference, Path(folder) / "policy", store)
            comparison = act(Path(folder) / "policy", manifest, workers)
        key = keep(store, manifest, comparison)
    except (World2ActError, ReleaseError) as error:
        return Failed(message=f"{type(error).__name__}: {error}")
    show(reference, manifest, comparison)
    message = f"{reference} is v{manifest.version}: {comparison}; {key}"
    if not comparison.regressed:
        return Completed(message=message, data=comparison)
    emit_event(
        REGRESSED_EVENT,
        resource={
            "prefect.resource.id": f"world2act.release.{manifest.name}.v{manifest.version}",
            "prefect.resource.name": f"{manifest.name} v{manifest.version}",
        },
        payload={"reference": reference, "evaluation": f"{store.url}/{key}", **comparison.figures()},
    )
    return Failed(name="Regressed", message=message, data=comparison)


def show(reference: str, manifest: Manifest, comparison: Comparison) -> None:
    """A table in Prefect's UI: one row per task, and one for all of them."""
    tasks = list(dict.fromkeys(episode["task"] for episode in comparison.episodes))
    rows = [_row(name, [e for e in comparison.episodes if e["task"] == name]) for name in tasks]
    rows.append(_row("all", comparison.episodes))
    key = f"world2act-evaluation-{manifest.name}"
    create_table_artifact(rows, key=key, description=f"{reference} is v{manifest.version}: {comparison}")


def _row(name: str, episodes: Sequence[ComparedEpisode]) -> dict[str, str | int]:
    pairs = [
        (now, recorded)
        for episode in episodes
        if (now := episode["success"]) is not None and (recorded := episode["recorded"]) is not None
    ]
    return {
        "task": name,
        "pairs": len(pairs),
        "success": sum(now for now, _ in pairs),
        "recorded": sum(recorded for _, recorded in pairs),
        "lost": len(episodes) - len(pairs),
    }


def main(
    reference: Annotated[str, typer.Argument(help="NAME@CHANNEL, NAME@vVERSION or NAME@latest.")] = "policy@prod",
    workers: Annotated[int, typer.Option(min=1, help="Simulator processes.")] = 2,
) -> None:
    """Evaluate a released policy again and compare it with its record. Exits with 1 on a regression or a failure."""
    state = check_release(reference, workers, return_state=True)
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
