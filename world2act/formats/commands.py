"""The commands on demonstrations: `world2act import` and `world2act export`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from world2act.core.messages import one_message

app = typer.Typer()
ANYWHERE = {"import", "export"}
"""The commands that need no pipeline."""

_LISTED = 20


@app.command("import")
def import_(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A folder or file, or s3://BUCKET/PREFIX.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The data set to write; it must not exist.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="libero, robocasa, lerobot or folder; detected without it.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Another name for an element of a feature; may be repeated."),
    ] = None,
    lag: Annotated[
        int | None,
        typer.Option(help="Steps by which the source stores observations after actions; else what its format says."),
    ] = None,
    set_aside_share: Annotated[
        float, typer.Option(min=0, max=1, help="The share of episodes that may be unusable.")
    ] = 0.05,
    embodiment: Annotated[
        str | None, typer.Option(help="The robot's name, where the source has another or none.")
    ] = None,
    pictures_like: Annotated[
        str | None,
        typer.Option(metavar="SIMULATOR", help="Pictures stand as this one's do: metaworld, libero or robocasa."),
    ] = None,
) -> None:
    """Turn demonstrations of other software into a data set of ours (LeRobot v3.0): streamed, checked, aligned.

    Reads LIBERO's and RoboCasa's HDF5 files, LeRobot data sets of v2.1 and v3.0, and folders of one's own
    (`python -m pydoc world2act.formats.importers.folder`). The S3 server and its credentials come from the environment
    (AWS_ENDPOINT_URL, AWS_*).

    An episode that cannot be used is set aside with its reason, in DEST/set_aside.parquet. The lag between actions
    and observations is measured by the motion that follows the actions, and must be the one declared: frame t of DEST
    is observed before action t. That needs elements named delta_x, delta_y, delta_z (action) and ee_x_m, ee_y_m,
    ee_z_m (state); name them with --rename where the source calls them otherwise.
    """
    from world2act.core.errors import BadInput
    from world2act.formats.importers.run import import_dataset

    with one_message():
        pairs = dict(each.partition("=")[::2] for each in rename or [])
        for old, new in pairs.items():
            if not old or not new:
                raise BadInput("--rename", "", f"{old}={new}", "OLD=NEW", "name both")
        with _progress() as progress:
            done = import_dataset(
                src,
                dest,
                format_=format_,
                rename=pairs,
                lag=lag,
                set_aside_share=set_aside_share,
                embodiment=embodiment,
                pictures_like=pictures_like,
                progress=progress,
            )
    for each in done.set_aside[:_LISTED]:
        typer.echo(f"set aside  {each.name}: {each.reason}")
    if len(done.set_aside) > _LISTED:
        typer.echo(f"and {len(done.set_aside) - _LISTED} more, in {dest}/set_aside.parquet")
    for name in done.left_out:
        typer.echo(f"left out   {name}: neither numbers nor pictures")
    typer.echo(f"{dest} holds {done.episodes} episodes, {done.frames} frames, from {done.format}")
    if done.lag is None:
        typer.echo("no actions: for the video-only set")
    elif done.lag.measured is None:
        typer.echo(f"lag {done.lag.declared} as stated, UNPROVEN: actions and state have no axes in common")
    else:
        typer.echo(f"lag {done.lag.measured} measured and taken out (explained variance {done.lag.explained:.2f})")


@app.command()
def export(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="A data set of ours, such as artifacts/demos/labelled.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The data set to write; it must not exist.")],
    format_: Annotated[str, typer.Option("--format", help="lerobot-v3.0 or lerobot-v2.1.")] = "lerobot-v3.0",
    skills: Annotated[Path | None, typer.Option(help="artifacts/skills: the prompts of its skills go along.")] = None,
) -> None:
    """Write a data set for other software: LeRobot v3.0, or v2.1 with meta/modality.json as GR00T-N1.6 reads it.

    The same data set always gives the same bytes. Skill prompts go to LeRobot's column `language_persistent`, style
    "subtask", one active at each frame; in v2.1 to `annotation.human.action.subtask`, a row of tasks.jsonl each.
    Pictures stay as they are in v3.0 and become mp4 videos in v2.1.
    """
    from world2act.formats.exporters.run import export_dataset

    with one_message(), _progress() as progress:
        done = export_dataset(src, dest, format_, skills=skills, progress=progress)
    typer.echo(f"{dest} holds {done.episodes} episodes, {format_}")
    if done.prompted is not None:
        typer.echo(f"{done.prompted} of them with skill prompts; the others were discarded and have none")


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, nothing anywhere else."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("episodes", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
