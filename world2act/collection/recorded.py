"""Recorded demonstrations: datasets that `world2act import` wrote into data/recorded → the episodes of the sets.

They replace a simulator's scripted experts, where a task has none or a team has its own data. The initial states of
post-training and test still come from the simulator, so recording and simulator must agree on embodiment, rate,
cameras and image convention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from world2act.collection.ingested import KINDS
from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.data.episodes import EncodedEpisode, Episode, encode
from world2act.data.features import IMAGES
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, STATE
from world2act.sims.simulator import Simulator

FOLDER = Path("data/recorded")
_REMEDY = (
    "import the data with the names of this simulator (`world2act import --rename OLD=NEW`), say which way up its "
    "pictures are if the source does not (--pictures-like), or correct demos"
)


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode of a recorded dataset."""

    dataset: EpisodeDataset
    index: int

    @property
    def has_actions(self) -> bool:
        return ACTION in self.dataset.features


def open_recorded(demos: Demos, simulator: Simulator) -> dict[str, list[RecordedEpisode]]:
    """Deal the episodes of the datasets `demos.recorded` out to the sets "labelled" and "video_only".

    The first episodes of a task that have actions are labelled. Those without actions, and the rest, are video-only.
    Tasks are interleaved, as the split into a training and a held-out part expects.

    Raises:
        BadInput: a dataset is missing or was recorded otherwise, or a task has too few episodes.
    """
    datasets = [EpisodeDataset.open(FOLDER / name) for name in demos.recorded]
    for dataset in datasets:
        _check(dataset, demos, simulator)
    dealt: dict[str, list[list[RecordedEpisode]]] = {name: [] for name in KINDS}
    for task in demos.tasks:
        labelled, video_only = _deal([e for e in _all_episodes(datasets) if _task(e) == task], task, demos)
        dealt["labelled"].append(labelled)
        dealt["video_only"].append(video_only)
    return {name: list(chain.from_iterable(zip(*by_task, strict=True))) for name, by_task in dealt.items()}


def _all_episodes(datasets: Sequence[EpisodeDataset]) -> list[RecordedEpisode]:
    return [RecordedEpisode(dataset, record.index) for dataset in datasets for record in dataset.episodes]


def _task(episode: RecordedEpisode) -> str:
    return episode.dataset.episodes[episode.index].task


def _deal(
    episodes: Sequence[RecordedEpisode], task: str, demos: Demos
) -> tuple[list[RecordedEpisode], list[RecordedEpisode]]:
    """The labelled and the video-only episodes of a task."""
    acting = [episode for episode in episodes if episode.has_actions]
    silent = [episode for episode in episodes if not episode.has_actions]
    labelled = acting[: demos.labelled_per_task]
    if len(labelled) < demos.labelled_per_task or len(episodes) < demos.labelled_per_task + demos.video_only_per_task:
        raise BadInput(
            FOLDER,
            task,
            f"{len(acting)} episodes with actions, {len(silent)} without, in {demos.recorded}",
            f"{demos.labelled_per_task} with actions (demos.labelled_per_task), and {demos.video_only_per_task} "
            "others (demos.video_only_per_task)",
            "import more, lower the numbers, or leave the task out of demos.tasks",
        )
    return labelled, (silent + acting[len(labelled) :])[: demos.video_only_per_task]


def action_lags(demos: Demos) -> dict[str, object]:
    """What `world2act import` measured for each of `demos.recorded`: the lag between actions and motion in its source.

    Raises:
        BadInput: a dataset with actions was not imported, so nobody knows its lag.
    """
    lags: dict[str, object] = {}
    for name in demos.recorded:
        dataset = EpisodeDataset.open(FOLDER / name)
        if ACTION in dataset.features:
            lags[name] = dataset.info.get("world2act", {}).get("alignment")
            if lags[name] is None:
                where, remedy = dataset.path / "meta/info.json", "import it with `world2act import`"
                raise BadInput(where, "world2act.alignment", None, "the measured lag", remedy)
    return lags


def read_recorded(
    episodes: Sequence[RecordedEpisode], name: str, demos: Demos, simulator: Simulator, first: int
) -> Iterator[EncodedEpisode]:
    """The episodes of a set, at the pipeline's image size; video-only ones without their actions.

    Their instruction is what a policy is given when it is tested: the simulator's for the task, unless each episode
    has an instruction of its own.

    Args:
        first: the number of the first of them. A recording has no scene seed; -1 - number takes its place.
    """
    cameras, size = [camera.name for camera in demos.cameras], demos.image_size
    names = [STATE, ACTION] if name == "labelled" else [STATE]
    for number, episode in enumerate(episodes, first):
        dataset, index = episode.dataset, episode.index
        record, seed = dataset.episodes[index], -1 - number
        task, length = record.task, record.length
        instruction = record.instruction if simulator.instruction_per_episode else simulator.tasks[task].instruction
        arrays = dataset.columns(index, names)
        if all(dataset.features[IMAGES + camera]["shape"][:2] == [size, size] for camera in cameras):
            stored = dataset.encoded(index)
            pngs = {name: stored.pngs[name] for name in cameras}
            histograms = {name: stored.histograms[name] for name in cameras}
            yield EncodedEpisode(task, instruction, seed, length, pngs, histograms, arrays)
        else:
            images = {
                name: np.stack([_resize(frame, size) for frame in dataset.frames(index, name)]) for name in cameras
            }
            yield encode(Episode(task, instruction, seed, images, arrays))


def _resize(frame: np.ndarray, size: int) -> np.ndarray:
    # a box filter averages all pixels of the large picture; without it, thin objects flicker from frame to frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


def _check(dataset: EpisodeDataset, demos: Demos, simulator: Simulator) -> None:
    embodiment, where = simulator.embodiment, dataset.path / "meta/info.json"
    for camera in (IMAGES + camera.name for camera in demos.cameras):
        if camera not in dataset.features:
            raise BadInput(where, "features", dataset.cameras, f"{camera}", _REMEDY)
        height, width, _ = dataset.features[camera]["shape"]
        if not height == width >= demos.image_size:
            expected = f"square, at least demos.image_size = {demos.image_size}"
            raise BadInput(where, f"features.{camera}.shape", (height, width), expected, _REMEDY)
    convention = dataset.info.get("world2act", {}).get("image_convention")
    pairs: dict[str, tuple[object, object]] = {
        "robot_type": (dataset.info.get("robot_type"), embodiment.name),
        "fps": (dataset.fps, embodiment.control_hz),
        f"features.{STATE}.names": (dataset.element_names(STATE), list(embodiment.proprio_names)),
        "world2act.image_convention": (convention, simulator.image_convention),
    }
    if ACTION in dataset.features:
        pairs[f"features.{ACTION}.names"] = (dataset.features[ACTION]["names"], list(embodiment.action_names))
    for key, (recorded, simulated) in pairs.items():
        if recorded != simulated:
            raise BadInput(where, key, recorded, simulated, _REMEDY)
