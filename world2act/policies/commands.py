"""The command `world2act convert-cosmos-policy`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from world2act.core.messages import one_message

app = typer.Typer()
ANYWHERE = {"convert-cosmos-policy"}


class Interface(StrEnum):
    """The robots of the released weights."""

    LIBERO = "libero"
    ROBOCASA = "robocasa"


@app.command("convert-cosmos-policy")
def convert_cosmos_policy(
    source: Annotated[Path, typer.Argument(help="The folder of NVIDIA's .pt, statistics and prompt embeddings.")],
    target: Annotated[Path, typer.Argument(help="The policy's folder to write.")],
    interface: Annotated[Interface, typer.Option(help="The robot that the weights were trained for.")],
    vae: Annotated[Path, typer.Option(help="The folder that holds vae/: Cosmos-Predict2-2B-Video2World has it.")],
    image_size: Annotated[int, typer.Option(help="Pixels a side of the robot's pictures, as demos.image_size.")] = 256,
) -> None:
    """Write NVIDIA's Cosmos Policy as one of our policies: safetensors, and no code of its pickles run."""
    from world2act.policies.cosmos_policy.conversion import convert

    with one_message():
        convert(source, target, interface=interface.value, vae=vae, image_size=image_size)
        typer.echo(f"{target}: serve it, or set base_policy.cosmos_policy.weights to it")
