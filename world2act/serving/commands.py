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
    host: Annotated[str, typer.Option(help="The address to listen on; beyond loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    store: Annotated[
        str | None, typer.Option("--store", envvar="WORLD2ACT_STORE", help="URL of the store, s3://bucket/prefix.")
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=CAMERA", help="A client's key of a camera's image; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling noise where a client sends none.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Requests that run together at most.")] = 32,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    clients: Annotated[int, typer.Option(min=1, help="Connections at the same time.")] = 64,
    message_mib: Annotated[int, typer.Option(min=1, help="The largest observation.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds that a request may take.")] = 30.0,
) -> None:
    """Serve a policy to robots over openpi's websocket protocol, until SIGTERM or Ctrl-C.

    Any robot that uses openpi-client can ask it. With a key in WORLD2ACT_API_KEY, only those that send it are served;
    without one, it listens on loopback only. Its log is JSON, one event a line, on standard error.
    """
    from world2act.serving.run import parse_cameras, run
    from world2act.serving.server import Limits

    with one_message():
        limits = Limits(batch, waiting, clients, message_mib * 2**20, timeout)
        run(source, store, host, port, cameras=parse_cameras(camera or []), seed=seed, limits=limits)
