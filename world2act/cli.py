"""The `world2act` command. It runs in the root of the pipeline, the folder that holds dvc.yaml.

Some commands run in any folder: those that only read or move releases in the store (`world2act.artifacts.commands`),
that convert demonstrations (`world2act.formats.commands`) or policies (`world2act.policies.commands`), and that serve a
policy (`world2act.serving.commands`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from world2act.artifacts import commands
from world2act.core.messages import one_message
from world2act.films import commands as films_commands
from world2act.formats import commands as formats_commands
from world2act.policies import commands as policies_commands
from world2act.report import commands as report_commands
from world2act.serving import commands as serving_commands

app = typer.Typer(
    name="world2act",
    help=(
        "World2Act end to end: from demonstrations to skills, a world model, a bridge between its latents and the "
        "actions of a policy, and a policy post-trained without reward.\n\n"
        "The pipeline is defined in dvc.yaml, its parameters are in params.yaml. This command writes the parameters "
        "from a profile, runs the pipeline, shows the results, and publishes them for robots. DVC does the rest: `dvc "
        "dag` draws the pipeline, `dvc repro STAGE` runs a part of it, `dvc metrics show` prints its metrics.\n\n"
        "Start with `world2act check`, then `world2act repro`."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(commands.app)
app.add_typer(report_commands.app)
app.add_typer(formats_commands.app)
app.add_typer(films_commands.app)
app.add_typer(serving_commands.app)
app.add_typer(policies_commands.app)


@app.callback()
def _in_pipeline_root(context: typer.Context) -> None:
    groups = (commands, formats_commands, serving_commands, policies_commands)
    anywhere = set().union(*(group.ANYWHERE for group in groups))
    if context.invoked_subcommand not in anywhere and not Path("dvc.yaml").exists():
        typer.secho(f"no dvc.yaml in {Path.cwd()}: run world2act in the root of the pipeline", err=True, fg="red")
        raise typer.Exit(2)


@app.command()
def profile(
    name: Annotated[str | None, typer.Argument(help="A file in conf/profile, without .yaml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a params.yaml that was edited by hand.")] = False,
) -> None:
    """Write params.yaml from a profile; without NAME, list the profiles and show the one in force.

    A profile is conf/profile/default.yaml overlaid with conf/profile/NAME.yaml. A params.yaml that was edited by
    hand is kept, unless --force is given.
    """
    from world2act.core.profiles import list_profiles, profile_in_force, write_profile

    with one_message():
        if name is not None:
            path = write_profile(name, force=force)
            typer.echo(f"{path} now holds the profile {name}")
            return
        for listed, summary in list_profiles().items():
            typer.echo(f"{listed:<10}{summary}")
        current, edited = profile_in_force()
        typer.echo(f"\nin force: {current}" + (f", with {', '.join(edited)} edited by hand" if edited else ""))


@app.command()
def repro() -> None:
    """Run what changed since the last run, then show the summary.

    Exits as DVC does: with a status other than 0 when a stage fails or a gate is red. The message before it says which
    row, which value and what to do. The results of the last good run stay in place.
    """
    from world2act.core.params import load_params
    from world2act.processes.dvc_command import dvc_command, stage_environment

    with one_message():
        load_params()
    done = subprocess.run(dvc_command("repro"), env=stage_environment())
    if done.returncode:
        typer.secho("\nThe pipeline stopped. The messages above say what failed and what to do.", err=True, fg="red")
        raise typer.Exit(done.returncode)
    summary()


@app.command()
def summary() -> None:
    """Show what the last run produced: artifacts, gates, success rates, and where the report is."""
    from world2act.report.summary import print_summary

    with one_message():
        print_summary()


@app.command()
def check() -> None:
    """Show what is installed and what is missing, and render one frame to test off-screen rendering."""
    from world2act.doctor import run_checks

    findings = run_checks()
    for finding in findings:
        mark, colour = ("ok     ", "green") if finding.ok else ("missing", "red")
        typer.echo(f"{typer.style(mark, fg=colour)}  {finding.what:<22}{finding.found}")
        if not finding.ok:
            typer.echo(f"{'':<31}{finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
