"""Export: a dataset of ours in, a dataset in another layout out; the same dataset always gives the same bytes.

An exporter is a module of `world2act.formats.exporters`, or one that an installed package declares as an entry point of
the group of that name. It has the name of its format, `FORMAT`, and the function `write` of `Exporter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from world2act.core.errors import BadInput
from world2act.core.members import load_members
from world2act.core.storage import atomic_directory
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.exporters.subtasks import Subtask, read_subtasks

Progress = Callable[[int, int | None], None]


class Exporter(Protocol):
    """A module that writes one format."""

    FORMAT: str

    def write(
        self,
        dataset: EpisodeDataset,
        folder: Path,
        subtasks: Mapping[int, Sequence[Subtask]] | None,
        progress: Progress,
    ) -> None:
        """Write a dataset into an empty folder, with the subtasks of each episode where there are some."""


def all_exporters() -> dict[str, Exporter]:
    """Every exporter by the name of its format: our own, then those of installed packages."""
    members = load_members("world2act.formats.exporters", "FORMAT").values()
    return {exporter.FORMAT: exporter for exporter in (cast(Exporter, module) for module in members)}


@dataclass(frozen=True)
class Exported:
    """The result of an export. `prompted`: the number of episodes with skill prompts, None if not requested."""

    episodes: int
    prompted: int | None


def export_dataset(
    src: Path,
    dest: Path,
    format_: str,
    *,
    skills: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write the dataset `src` to `dest` in another layout.

    Args:
        format_: a key of `all_exporters`.
        skills: artifacts/skills, whose prompts are exported too.
        progress: called with the number of episodes written, and of all.

    Raises:
        BadInput: the format is unknown, `src` is not a dataset of ours, the skills do not match, or `dest` exists.
        InfrastructureError: the disk is full.
    """
    exporters = all_exporters()
    if format_ not in exporters:
        raise BadInput("--format", "", format_, f"one of {', '.join(sorted(exporters))}", "name one of these")
    if dest.exists():
        raise BadInput(dest, "", "an existing path", "a path that does not exist", "choose another, or delete it")
    dataset = EpisodeDataset.open(src)
    subtasks = read_subtasks(skills, dataset) if skills else None
    with atomic_directory(dest) as folder:
        exporters[format_].write(dataset, folder, subtasks, progress)
    return Exported(len(dataset), None if subtasks is None else len(subtasks))
