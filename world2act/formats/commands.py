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
"""The commands that work outside a pipeline."""

_LISTED = 20


@app.command("import")
def import_(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A folder or file, or s3://BUCKET/PREFIX.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The dataset to write; it must not exist.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="Such as libero, robocasa, lerobot or folder; detected by default.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Rename an element of a feature; may be repeated."),
    ] = None,
    lag: Annotated[
        int | None,
        typer.Option(
            help="Steps by which the source stores observations after actions; by default what its format declares."
        ),
    ] = None,
    set_aside_share: Annotated[
        float, typer.Option(min=0, max=1, help="The largest share of episodes that may be unusable.")
    ] = 0.05,
    embodiment: Annotated[
        str | None, typer.Option(help="The robot's name, if the source has another name or none.")
    ] = None,
    pictures_like: Annotated[
        str | None,
        typer.Option(metavar="SIMULATOR", help="A simulator whose images are the same way up."),
    ] = None,
) -> None:
    """Convert demonstrations of other software to a dataset of ours (LeRobot v3.0), checked and with the lag removed.

    Reads LIBERO's and RoboCasa's HDF5 files, LeRobot datasets of v2.1 and v3.0, and plain folders
    (`python -m pydoc world2act.formats.importers.folder`). The S3 server and its credentials come from the environment
    (AWS_ENDPOINT_URL, AWS_*).

    Unusable episodes are set aside with the reason, in DEST/set_aside.parquet. The lag between actions and
    observations is measured by the motion that follows the actions, and must equal the declared one: frame t of DEST
    is observed before action t. This needs elements named delta_x, delta_y, delta_z (action) and ee_x_m, ee_y_m,
    ee_z_m (state); use --rename where the source has other names.
    """
    from world2act.core.errors import BadInput
    from world2act.formats.importers.run import import_dataset

    with one_message():
        pairs = dict(pair.partition("=")[::2] for pair in rename or [])
        for old, new in pairs.items():
            if not old or not new:
                raise BadInput("--rename", "", f"{old}={new}", "OLD=NEW", "give both names")
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
    for episode in done.set_aside[:_LISTED]:
        typer.echo(f"set aside  {episode.name}: {episode.reason}")
    if len(done.set_aside) > _LISTED:
        typer.echo(f"and {len(done.set_aside) - _LISTED} more, in {dest}/set_aside.parquet")
    for name in done.left_out:
        typer.echo(f"left out   {name}: neither numbers nor images")
    typer.echo(f"{dest}: {done.episodes} episodes, {done.frames} frames, from {done.format}")
    if done.lag is None:
        typer.echo("no actions: usable as video-only data")
    elif done.lag.measured is None:
        typer.echo(f"lag {done.lag.declared} as stated, UNPROVEN: actions and state have no axes in common")
    else:
        typer.echo(f"lag {done.lag.measured} measured and removed (explained variance {done.lag.explained:.2f})")


@app.command()
def export(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="A dataset of ours, such as artifacts/demos/labelled.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The dataset to write; it must not exist.")],
    format_: Annotated[
        str, typer.Option("--format", help="lerobot-v3.0, lerobot-v2.1, or one of another package.")
    ] = "lerobot-v3.0",
    skills: Annotated[Path | None, typer.Option(help="artifacts/skills, whose prompts are exported too.")] = None,
) -> None:
    """Write a dataset for other software: LeRobot v3.0, or v2.1 with meta/modality.json as GR00T-N1.6 reads it.

    The same dataset always gives the same bytes. Skill prompts go to LeRobot's column `language_persistent`, style
    "subtask", with one active prompt per frame; in v2.1 to `annotation.human.action.subtask`, one row of tasks.jsonl
    per prompt. Images are copied in v3.0 and become mp4 videos in v2.1.
    """
    from world2act.formats.exporters.run import export_dataset

    with one_message(), _progress() as progress:
        done = export_dataset(src, dest, format_, skills=skills, progress=progress)
    typer.echo(f"{dest}: {done.episodes} episodes, {format_}")
    if done.prompted is not None:
        typer.echo(f"{done.prompted} of them have skill prompts; the others were discarded by the skills stage")


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar, drawn only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("episodes", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
