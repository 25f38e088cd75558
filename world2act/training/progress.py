"""A progress bar on rank 0 if it runs in a terminal; nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from world2act.core.stage import is_main


@contextmanager
def progress_bar(name: str, steps: int, first: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield a function that advances the bar by one step and shows the metrics that are passed to it."""
    columns = [
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (is_main() and console.is_terminal)) as progress:
        bar = progress.add_task(name, total=steps, completed=first, shown="")

        def advance(latest: dict[str, float]) -> None:
            progress.update(bar, advance=1, shown=" ".join(f"{key} {value:.3g}" for key, value in latest.items()))

        yield advance
