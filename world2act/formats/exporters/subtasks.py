"""Skill prompts for export: skills.parquet in, the active prompt at every time of an episode out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.core.storage import read_parquet
from world2act.data.features import LanguageRow
from world2act.data.lerobot_v3 import EpisodeDataset


@dataclass(frozen=True)
class Subtask:
    """A prompt, active from frame `start` until the next one starts, or the episode ends."""

    start: int
    prompt: str


def read_subtasks(skills: Path, dataset: EpisodeDataset) -> Mapping[int, Sequence[Subtask]]:
    """Episode → its subtasks in order, the first from frame 0: every frame of the episode has exactly one.

    Discarded episodes, which have no skills, are not included.

    Raises:
        BadInput: artifacts/skills is damaged, or was made from other episodes.
    """
    path = skills / "skills.parquet"
    columns = ["dataset", "episode_index", "instruction", "start", "prompt"]
    kind = dataset.details.get("set")
    episodes: dict[int, list[Subtask]] = defaultdict(list)
    for row in read_parquet(path, columns).to_pylist():
        if row["dataset"] != kind:
            continue
        index = row["episode_index"]
        known = dataset.episodes[index] if index < len(dataset) else None
        if known is None or known.instruction != row["instruction"] or not 0 <= row["start"] < known.length:
            found = f"{row['instruction']!r}, a skill from frame {row['start']}"
            expected = f"as in {dataset.path}: {known}"
            raise BadInput(
                path, f"episode {index}", found, expected, "give the skills that were made from this dataset"
            )
        starts = episodes[index]
        if starts and row["start"] <= starts[-1].start:
            key, expected = f"episode {index}, start", f"after {starts[-1].start}"
            raise BadInput(path, key, row["start"], expected, "make the skills again")
        starts.append(Subtask(row["start"] if starts else 0, row["prompt"]))
    if not episodes:
        raise BadInput(
            path,
            "dataset",
            f"no skill of the set {kind!r}",
            "skills of this dataset",
            "give the skills that were made from it",
        )
    return episodes


def language_rows(subtasks: Sequence[Subtask], fps: int) -> list[LanguageRow]:
    """Rows of LeRobot's column `language_persistent`, as its own `lerobot-annotate` writes subtasks."""
    return [
        {
            "role": "assistant",
            "content": subtask.prompt,
            "style": "subtask",
            "timestamp": subtask.start / fps,
            "camera": None,
            "tool_calls": None,
        }
        for subtask in subtasks
    ]
