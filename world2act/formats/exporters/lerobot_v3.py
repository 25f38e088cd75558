"""LeRobot v3.0 with skill prompts: our layout, with the column `language_persistent`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from world2act.data.features import INDICES, LANGUAGE, language_feature
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.formats.exporters.subtasks import Subtask, language_rows

FORMAT = "lerobot-v3.0"


def write(
    dataset: EpisodeDataset,
    folder: Path,
    subtasks: Mapping[int, Sequence[Subtask]] | None,
    progress: Callable[[int, int | None], None],
) -> None:
    """Write the dataset into `folder`. The PNGs of the frames are copied unchanged.

    LeRobot reads the prompts since 0.5; without them, every LeRobot that reads v3.0 reads the dataset.
    """
    features = {name: feature for name, feature in dataset.features.items() if name not in INDICES}
    if subtasks is not None:
        features[LANGUAGE] = language_feature()
    robot, ours = dataset.info.get("robot_type") or "", dataset.details
    with DatasetWriter(folder, features=features, fps=dataset.fps, robot_type=robot, extra=ours) as writer:
        for index in range(len(dataset)):
            episode = dataset.encoded(index)
            if subtasks is not None:
                episode = replace(episode, language=language_rows(subtasks.get(index, []), dataset.fps))
            writer.add(episode)
            progress(index + 1, len(dataset))
        writer.set_splits(dataset.splits)
