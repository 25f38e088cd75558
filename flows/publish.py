"""Publishing as a flow: an artifact of the pipeline becomes a version in the store, and a channel moves to it.

Run it in the root of the pipeline: `python -m flows.publish --help`. It does what `world2act publish` and
`world2act promote` do, and shows in Prefect's UI what was published.
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

from flows.workspace import WorkspaceBusy, hold_workspace
from world2act.artifacts.catalogue import Release
from world2act.artifacts.channels import promote
from world2act.artifacts.publish import Published
from world2act.artifacts.publish import publish as publish_artifact
from world2act.artifacts.registry import open_registry
from world2act.artifacts.tables import describe, in_words
from world2act.core.errors import World2ActError


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    channel = parameters["channel"]
    return f"publish {parameters['name']}" + (f" to {channel}" if channel else "")


@flow(name="publish", flow_run_name=_run_name)
def publish(
    name: str = "policy",
    channel: str | None = None,
    note: str = "",
    allow_modified: bool = False,
    store: str | None = None,
    wait_for_workspace_s: float = 0,
) -> State[Published]:
    """Publish an artifact of the pipeline in the current directory, if it is up to date, green and committed.

    Args:
        name: one of `artifacts:` in dvc.yaml.
        channel: then move this channel to the new version.
        note: the reason, for the channel's log.
        allow_modified: publish although code differs from HEAD; the manifest names the paths.
        store: the store's URL; by default WORLD2ACT_STORE, or DVC's default remote.
        wait_for_workspace_s: how long to wait for a run in this workspace before this one is refused.
    """
    try:
        with hold_workspace(flow_run.get_name() or "publish", wait_for_workspace_s):
            done = publish_artifact(name, store=store, allow_modified=allow_modified, progress=get_run_logger().info)
        words = in_words(done)
        if channel:
            registry = open_registry(store, signing=True)
            pointer = promote(registry, f"{name}@v{done.manifest.version}", channel, note)
            words += f"; {name}@{channel} is at v{pointer.version}"
    except WorkspaceBusy as error:
        return Failed(name="Workspace busy", message=str(error))
    except (World2ActError, ReleaseError) as error:
        return Failed(message=f"{type(error).__name__}: {error}")
    rows = [
        {"": key, "release": value} for key, value in describe(Release(done.manifest, (channel,) if channel else ()))
    ]
    create_table_artifact(rows, key=f"world2act-release-{name}", description=words)
    return Completed(message=words, data=done)


def main(
    name: Annotated[str, typer.Argument(help="A key of `artifacts:` in dvc.yaml.")] = "policy",
    channel: Annotated[str | None, typer.Option(help="Then move this channel to the new version.")] = None,
    note: Annotated[str, typer.Option(help="Why; it stays in the channel's log.")] = "",
) -> None:
    """Publish an artifact of the pipeline. Exits with 1 when it was not fit to be published."""
    state = publish(name, channel, note, return_state=True)
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
