"""The command `world2act serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from world2act.core.messages import one_message

app = typer.Typer()
ANYWHERE = {"serve"}
"""The commands that need no pipeline."""


@app.command()
def serve(
    source: Annotated[str, typer.Argument(metavar="POLICY", help="A folder, NAME@CHANNEL, or s3://.../NAME@CHANNEL.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on; if it is not loopback, a key is needed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    store: Annotated[
        str | None, typer.Option("--store", envvar="WORLD2ACT_STORE", help="URL of the store, s3://bucket/prefix.")
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=CAMERA", help="The key under which clients send a camera's image; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling noise for clients that send none.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="How many requests may run together.")] = 32,
    waiting: Annotated[int, typer.Option(min=1, help="How many requests may wait.")] = 64,
    clients: Annotated[int, typer.Option(min=1, help="How many clients may be connected at the same time.")] = 64,
    message_mib: Annotated[int, typer.Option(min=1, help="The size of the largest observation, in MiB.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.01, help="How long a request may take, in seconds.")] = 30.0,
) -> None:
    """Serve a policy to robots over openpi's websocket protocol, until SIGTERM or Ctrl-C.

    Any robot that uses openpi-client can be a client. With a key in WORLD2ACT_API_KEY, only clients that send it are
    served; without one, the server listens on loopback only. It logs JSON to standard error, one event per line.
    """
    from world2act.serving.run import parse_cameras, run
    from world2act.serving.server import Limits

    with one_message():
        limits = Limits(batch, waiting, clients, message_mib * 2**20, timeout)
        run(source, store, host, port, cameras=parse_cameras(camera or []), seed=seed, limits=limits)
