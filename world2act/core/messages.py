"""How a command or a stage ends when something is wrong that a user can mend: one message and exit status 2."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from world2act.core.errors import World2ActError


@contextmanager
def one_message(stage: str = "") -> Iterator[None]:
    """Print a `World2ActError`, or a `ReleaseError` of the client's, as one message and exit with 2.

    Args:
        stage: the stage that is running, which the message then begins with; empty for a command.
    """
    from world2act_client.errors import ReleaseError

    try:
        yield
    except (World2ActError, ReleaseError) as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(10)  # where every rank meets the same error, the launcher ends this one before it says it again
        prefix = f"{stage}: {type(error).__name__}: " if stage else ""
        typer.secho(f"{prefix}{error}", err=True, fg="red")
        sys.exit(2)
