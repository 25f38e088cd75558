"""How a command ends when something is wrong that a user can mend: one message and exit status 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def one_message() -> Iterator[None]:
    """Print a `World2ActError`, or a `ReleaseError` of the client's, as one message and exit with 2."""
    from world2act_client.errors import ReleaseError

    from world2act.core.errors import World2ActError

    try:
        yield
    except (World2ActError, ReleaseError) as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(2) from error
