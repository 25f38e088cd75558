"""The command `world2act skills preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from world2act.core.messages import one_message

app = typer.Typer()
skills = typer.Typer(help="Look at demonstrations as skills.", no_args_is_help=True)
app.add_typer(skills, name="skills")


@skills.callback()
def _skills() -> None:
    """Look at demonstrations as skills."""


@skills.command()
def preview(
    dataset: Annotated[Path, typer.Argument(help="A canonical dataset: a LeRobot v3.0 folder.")] = Path(
        "artifacts/demos/labelled"
    ),
    episodes: Annotated[int, typer.Option(min=1, help="How many episodes of each task to show.")] = 3,
    skills: Annotated[
        Path | None,
        typer.Option(
            help="What the stage `skills` wrote; by default DATASET/../../skills, if it exists.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("reports/skills_preview.html"),
) -> None:
    """Write a page that shows how a dataset divides into skills: frames, gripper, motion, boundaries, prompts."""
    from world2act.core.params import load_params
    from world2act.core.storage import atomic_file
    from world2act.data.lerobot_v3 import EpisodeDataset
    from world2act.report.skills_preview import render
    from world2act.skills.events import Calibration

    with one_message():
        calibration = Calibration.of(load_params().skills)
        opened = EpisodeDataset.open(dataset)
        default = dataset.resolve().parents[1] / "skills"
        known = skills or (default if (default / "skills.parquet").exists() else None)
        page = render(opened, known, calibration, episodes)
        with atomic_file(out) as temporary:
            temporary.write_text(page, encoding="utf-8")
        typer.echo(f"{out}: {len(opened)} episodes, {len(page) / 1e6:.1f} MB")
