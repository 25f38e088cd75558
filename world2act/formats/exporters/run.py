"""Export: a data set of ours in, a LeRobot v3.0 or v2.1 data set out; the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_directory
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.exporters import lerobot_v2, lerobot_v3
from world2act.formats.exporters.subtasks import Subtask, read_subtasks

EXPORTERS: dict[str, Callable[[EpisodeDataset, Path, Mapping[int, Sequence[Subtask]] | None, Callable], None]] = {
    "lerobot-v3.0": lerobot_v3.write,
    "lerobot-v2.1": lerobot_v2.write,
}


@dataclass(frozen=True)
class Exported:
    """What was written; `prompted` episodes have skill prompts, None where none were asked for."""

    episodes: int
    prompted: int | None


def export_dataset(
    src: Path,
    dest: Path,
    format_: str,
    *,
    skills: Path | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Exported:
    """Write the data set `src` as `dest` in another layout.

    Args:
        format_: a key of `EXPORTERS`.
        skills: artifacts/skills, whose prompts go along.
        progress: told how many episodes were written, of how many.

    Raises:
        BadInput: an unknown format, no data set of ours, other skills, or `dest` exists.
        InfrastructureError: the disk is full.
    """
    if format_ not in EXPORTERS:
        raise BadInput("--format", "", format_, f"one of {', '.join(EXPORTERS)}", "name one of these")
    if dest.exists():
        raise BadInput(dest, "", "something", "nothing there yet", "choose another place, or delete it")
    dataset = EpisodeDataset.open(src)
    subtasks = read_subtasks(skills, dataset) if skills else None
    with atomic_directory(dest) as folder:
        EXPORTERS[format_](dataset, folder, subtasks, progress)
    return Exported(len(dataset), None if subtasks is None else len(subtasks))
