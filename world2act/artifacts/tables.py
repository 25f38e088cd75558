"""Print releases as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from world2act_client.manifest import FileEntry

from world2act.artifacts.catalogue import Change, Difference, Release
from world2act.artifacts.garbage import Amount, Sweep
from world2act.artifacts.publish import Published

_UNITS = ("B", "kB", "MB", "GB", "TB")


def in_words(done: Published) -> str:
    """The result of publishing in one line."""
    reference = f"{done.manifest.name}@v{done.manifest.version}"
    if not done.new:
        return f"{reference} holds the same files, params and lineage: nothing new to publish"
    return f"published {reference}, {human(done.manifest.size)}: {human(done.moved)} were new to the store"


def describe(release: Release) -> list[tuple[str, str]]:
    """The columns of a release in a table: (title, value)."""
    manifest = release.manifest
    return [
        ("release", manifest.name),
        ("version", f"v{manifest.version}"),
        ("channels", ", ".join(release.channels)),
        ("created", manifest.created),
        ("success", "  ".join(f"{policy} {share:.0%}" for policy, share in release.success.items())),
        ("size", human(manifest.size)),
        ("files", str(len(manifest.files))),
        ("git", revision(manifest.git)),
    ]


def print_releases(releases: list[Release]) -> None:
    """Print one row per version."""
    if not releases:
        Console().print("no release yet; create the first one with `world2act publish policy`")
        return
    rows = [describe(release) for release in releases]
    table = _table(*(title for title, _ in rows[0]))
    for row in rows:
        table.add_row(*(value for _, value in row))
    Console().print(table)


def print_difference(difference: Difference) -> None:
    """Print a table of every changed section: params, metrics, files and stages."""
    old, new = difference.before, difference.after
    before, after = f"{old.name} v{old.version}", f"{new.name} v{new.version}"
    console = Console()
    console.print(f"git: {revision(old.git)} → {revision(new.git)}", highlight=False)
    for title, changes in (("params", difference.params), ("metrics", difference.metrics)):
        _print_changes(console, title, changes, before, after)
    if difference.files:
        table = _table("files", before, after)
        for path, (was, now) in sorted(difference.files.items()):
            table.add_row(path, _size(was), _size(now))
        console.print(table)
    if difference.stages:
        table = _table("stages", "what changed")
        for stage, found in difference.stages.items():
            table.add_row(stage, "\n".join(found))
        console.print(table)
    if not (difference.params or difference.metrics or difference.files or difference.stages):
        console.print("the same params, metrics, files and stages")


def sweep_rows(sweep: Sweep) -> list[tuple[str, Amount]]:
    """The rows of a sweep: (title, amount)."""
    last = "garbage, not deleted" if sweep.dry_run else "garbage, deleted"
    return [("kept", sweep.kept), ("young, kept", sweep.young), (last, sweep.garbage)]


def print_sweep(sweep: Sweep) -> None:
    """Print the numbers of objects and their sizes."""
    table = _table("", "objects", "size")
    for title, amount in sweep_rows(sweep):
        table.add_row(title, f"{amount.objects:,}", human(amount.size))
    Console().print(table)
    if sweep.dry_run and sweep.garbage.objects:
        Console().print("run it again with --delete to delete the garbage")


def human(size: int) -> str:
    """Bytes, in the unit that leaves at most three digits before the point."""
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def revision(git: Mapping[str, Any]) -> str:
    """The short revision, with the number of uncommitted changes."""
    return git["revision"][:8] + (f" + {len(git['modified'])} modified" if git["modified"] else "")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("objects", "size", "files") else "left")
    return table


def _print_changes(console: Console, title: str, changes: Mapping[str, Change], before: str, after: str) -> None:
    if changes:
        table = _table(title, before, after)
        for key, values in sorted(changes.items()):
            table.add_row(key, *("" if value is None else f"{value}" for value in values))
        console.print(table)


def _size(file: FileEntry | None) -> str:
    return "" if file is None else human(file.size)
