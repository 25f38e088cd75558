"""Retrieving as a flow: from a reference to a folder with exactly the files of that release.

`python -m flows.retrieve --help`. It is the client's `get`, every byte verified, on a machine that Prefect runs.
"""

from __future__ import annotations

from typing import Annotated

import typer
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from world2act_client.errors import ReleaseError
from world2act_client.get import get
from world2act_client.manifest import Manifest

from world2act.artifacts.registry import open_registry
from world2act.artifacts.tables import human
from world2act.core.errors import World2ActError


@flow(name="retrieve", flow_run_name="get {reference} into {destination}")
def retrieve(
    reference: str = "policy@prod", destination: str = "releases/policy", store: str | None = None
) -> State[Manifest]:
    """Make a folder hold a release, and nothing else.

    Args:
        reference: NAME@CHANNEL, NAME@vVERSION or NAME@latest.
        destination: a folder that is not there, is empty, or holds an earlier release.
        store: the store's URL; by default WORLD2ACT_STORE, or DVC's default remote.
    """
    try:
        manifest = get(reference, destination, store=open_registry(store).store, progress=False)
    except (World2ActError, ReleaseError) as error:
        return Failed(message=f"{type(error).__name__}: {error}")
    rows = [{"file": file.path, "size": human(file.size), "sha256": file.sha256} for file in manifest.files]
    words = f"{destination} holds {manifest.name}@v{manifest.version}: {len(rows)} files, {human(manifest.size)}"
    create_table_artifact(rows, key=f"world2act-retrieved-{manifest.name}", description=words)
    return Completed(message=words, data=manifest)


def main(
    reference: Annotated[str, typer.Argument(help="NAME@CHANNEL, NAME@vVERSION or NAME@latest.")],
    destination: Annotated[str, typer.Argument(help="A folder that is new, or that an earlier get wrote.")],
) -> None:
    """Get a release. Exits with 1 when that failed; the folder is then as it was."""
    state = retrieve(reference, destination, return_state=True)
    print(state.message)
    raise typer.Exit(int(state.is_failed()))


if __name__ == "__main__":
    typer.run(main)
