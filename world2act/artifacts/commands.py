"""The commands on releases: `world2act publish`, `promote`, `rollback`, `list`, `diff`, `get`, `collect-garbage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from world2act.core.messages import one_message

app = typer.Typer()
ANYWHERE = {"keygen", "promote", "rollback", "list", "diff", "get"}
"""The commands that need no pipeline."""

_Store = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="WORLD2ACT_STORE", help="URL of the store, s3://bucket/prefix; else DVC's default remote."
    ),
]
_Note = Annotated[str, typer.Option("--note", help="The reason, for the channel's log.")]
_Reference = Annotated[str, typer.Argument(help="NAME@CHANNEL, NAME@vVERSION or NAME@latest.")]


@app.command()
def keygen(directory: Annotated[Path, typer.Argument(help="The folder to write the pair to.")]) -> None:
    """Make a key pair: the private key signs releases, the public key verifies them on robots."""
    from world2act_client.signing import make_key_pair

    with one_message():
        private, public = make_key_pair(directory)
        typer.echo(f"{private}  signs; for publishers only: export WORLD2ACT_SIGNING_KEY={private}")
        typer.echo(f"{public}  verifies; for everybody:     export WORLD2ACT_TRUSTED_KEYS={public}")


@app.command()
def publish(
    name: Annotated[str, typer.Argument(help="What to publish: a key of `artifacts:` in dvc.yaml.")],
    store: _Store = None,
    allow_modified: Annotated[
        bool,
        typer.Option("--allow-modified", help="Publish modified code too; the manifest names its paths."),
    ] = False,
) -> None:
    """Publish an artifact of the pipeline as a new, signed version that robots can get.

    Every stage must be up to date, every gate green, the code committed, and a policy no worse than its incumbent.
    Only files that the store does not have yet are uploaded.
    """
    from world2act.artifacts import publish as publishing
    from world2act.artifacts.tables import in_words

    with one_message():
        done = publishing.publish(name, store=store, allow_modified=allow_modified, progress=typer.echo)
        typer.echo(in_words(done))


@app.command()
def promote(
    reference: _Reference,
    channel: Annotated[str, typer.Argument(help="A channel such as `prod`; a new one is created.")],
    note: _Note = "",
    store: _Store = None,
) -> None:
    """Move a channel to a version."""
    from world2act.artifacts import channels
    from world2act.artifacts.registry import open_registry

    with one_message():
        pointer = channels.promote(open_registry(store, signing=True), reference, channel, note)
        typer.echo(f"{pointer.name}@{channel} is at v{pointer.version}")


@app.command()
def rollback(
    reference: Annotated[str, typer.Argument(metavar="NAME@CHANNEL", help="The channel.")],
    note: _Note = "",
    store: _Store = None,
) -> None:
    """Move a channel back to its version before the last promotion."""
    from world2act.artifacts import channels
    from world2act.artifacts.registry import open_registry

    with one_message():
        pointer = channels.rollback(open_registry(store, signing=True), reference, note)
        typer.echo(f"{reference} is at v{pointer.version} again")


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only the releases of this name.")] = None, store: _Store = None
) -> None:
    """Show the releases in the store: versions, channels, success rates, sizes."""
    from world2act.artifacts.catalogue import list_releases
    from world2act.artifacts.registry import open_registry
    from world2act.artifacts.tables import print_releases

    with one_message():
        print_releases(list_releases(open_registry(store), name))


@app.command()
def diff(before: _Reference, after: _Reference, store: _Store = None) -> None:
    """Show what changed between two releases: params, metrics, files, stages, git revision."""
    from world2act.artifacts.catalogue import compare
    from world2act.artifacts.registry import open_registry
    from world2act.artifacts.tables import print_difference

    with one_message():
        print_difference(compare(open_registry(store), before, after))


@app.command()
def get(
    reference: _Reference,
    destination: Annotated[Path, typer.Argument(help="A new folder, or one that an earlier get wrote.")],
    store: _Store = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only the local cache.")] = False,
) -> None:
    """Get a release from the store, every byte verified. On a robot, `world2act-client get` does the same."""
    from world2act_client.get import get as get_release

    from world2act.artifacts.registry import open_registry

    with one_message():
        manifest = get_release(reference, destination, store=open_registry(store).store, offline=offline)
        typer.echo(f"{destination} holds {manifest.name} v{manifest.version}: {len(manifest.files)} files")


@app.command()
def collect_garbage(
    delete: Annotated[bool, typer.Option("--delete", help="Delete the garbage; otherwise only count it.")] = False,
    grace_days: Annotated[float, typer.Option(min=0, help="Keep younger objects.")] = 7.0,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Keep what any commit refers to, not only branches and tags.")
    ] = False,
    store: _Store = None,
) -> None:
    """Find DVC objects in the store that no release and no git branch or tag refers to any more."""
    from world2act.artifacts import garbage
    from world2act.artifacts.tables import print_sweep

    with one_message():
        print_sweep(
            garbage.collect_garbage(
                store=store, dry_run=not delete, grace_days=grace_days, all_commits=all_commits, progress=typer.echo
            )
        )
