"""Export: a dataset of ours in, a LeRobot v3.0 or v2.1 dataset out; always the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_directory
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.formats.exporters import lerobot_v2, lerobot_v3
from world2act.formats.exporters.subtasks import Subtask, read_subtasks

Progress = Callable[[int, int | None], None]
Exporter = Callable[[EpisodeDataset, Path, Mapping[int, Sequence[Subtask]] | None, Progress], None]
EXPORTERS: dict[str, Exporter] = {
    "lerobot-v3.0": lerobot_v3.write,
    "lerobot-v2.1": lerobot_v2.write,
}


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
        format_: a key of `EXPORTERS`.
        skills: artifacts/skills, whose prompts are exported too.
        progress: called with the number of episodes written, and of all.

    Raises:
        BadInput: the format is unknown, `src` is not a dataset of ours, the skills do not match, or `dest` exists.
        InfrastructureError: the disk is full.
    """
    if format_ not in EXPORTERS:
        raise BadInput("--format", "", format_, f"one of {', '.join(EXPORTERS)}", "name one of these")
    if dest.exists():
        raise BadInput(dest, "", "an existing path", "a path that does not exist", "choose another, or delete it")
    dataset = EpisodeDataset.open(src)
    subtasks = read_subtasks(skills, dataset) if skills else None
    with atomic_directory(dest) as folder:
        EXPORTERS[format_](dataset, folder, subtasks, progress)
    return Exported(len(dataset), None if subtasks is None else len(subtasks))
