"""A progress bar on rank 0 of a terminal, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from world2act.core.stage import is_main


@contextmanager
def progress_bar(name: str, steps: int, first: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield what moves the bar on by a step, and shows the metrics that it is given."""
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
