"""The command `world2act convert-prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from world2act.messages import one_message

app = typer.Typer()
ANYWHERE = {"convert-prompts"}


@app.command()
def convert_prompts(
    source: Annotated[Path, typer.Argument(help="The pickle of T5 embeddings beside a Cosmos Policy checkpoint.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Convert a checkpoint's prompt embeddings to safetensors, once. No code of the pickle runs."""
    from world2act.policies.cosmos_policy.native import convert_prompts as convert

    with one_message():
        typer.echo(f"{target}: {convert(source, target)} prompts")
