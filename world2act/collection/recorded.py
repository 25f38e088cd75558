"""Recorded demonstrations: datasets that `world2act import` wrote into data/recorded in, the episodes of the sets out.

They stand in for the scripted experts of a simulator, where a task has none or a team has data of its own. The
simulator goes on giving the initial states of post-training and test, so that recording and simulator must agree on
embodiment, rate, cameras and image convention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from world2act.collection.ingested import KINDS
from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.data.episodes import EncodedEpisode, Episode, encode
from world2act.data.features import IMAGES
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, STATE

FOLDER = Path("data/recorded")
_REMEDY = (
    "import the data with the names of this simulator (`world2act import --rename OLD=NEW`), say how "
    "its pictures stand where the source does not (--pictures-like), or correct demos"
)

Place = tuple[EpisodeDataset, int]


def open_recorded(demos: Demos, simulator: Any) -> dict[str, list[Place]]:
    """Deal the episodes of the datasets `demos.recorded` out to the sets "labelled" and "video_only".

    Of a task, the first with actions are labelled. Those without actions, and the rest, are video-only. Tasks
    are interleaved, as the split into training and held-out part wants them.

    Raises:
        BadInput: a dataset is missing or was recorded otherwise, or a task has too few episodes.
    """
    datasets = [EpisodeDataset.open(FOLDER / name) for name in demos.recorded]
    for dataset in datasets:
        _check(dataset, demos, simulator)
    dealt: dict[str, list[list[Place]]] = {name: [] for name in KINDS}
    for task in demos.tasks:
        places = [(dataset, e.index) for dataset in datasets for e in dataset.episodes if e.task == task]
        acting = [place for place in places if ACTION in place[0].features]
        silent = [place for place in places if ACTION not in place[0].features]
        labelled, wanted = acting[: demos.labelled_per_task], demos.labelled_per_task + demos.video_only_per_task
        if len(labelled) < demos.labelled_per_task or len(places) < wanted:
            raise BadInput(
                FOLDER,
                task,
                f"{len(acting)} episodes with actions, {len(silent)} without, in {demos.recorded}",
                f"{demos.labelled_per_task} with actions (demos.labelled_per_task), and {demos.video_only_per_task} "
                "others (demos.video_only_per_task)",
                "import more, lower the numbers, or leave the task out of demos.tasks",
            )
        dealt["labelled"].append(labelled)
        dealt["video_only"].append((silent + acting[len(labelled) :])[: demos.video_only_per_task])
    return {name: list(chain.from_iterable(zip(*by_task, strict=True))) for name, by_task in dealt.items()}


def alignments(demos: Demos) -> dict[str, Any]:
    """What `world2act import` measured of each of `demos.recorded`: the lag between actions and motion in its source.

    Raises:
        BadInput: a dataset with actions that was not imported: nobody knows its lag.
    """
    found = {}
    for name in demos.recorded:
        dataset = EpisodeDataset.open(FOLDER / name)
        if ACTION in dataset.features:
            found[name] = dataset.info.get("world2act", {}).get("alignment")
            if found[name] is None:
                where = dataset.path / "meta/info.json"
                raise BadInput(
                    where, "world2act.alignment", None, "the measured lag", "bring it in by `world2act import`"
                )
    return found


def read_recorded(
    places: Sequence[Place], name: str, demos: Demos, simulator: Any, first: int
) -> Iterator[EncodedEpisode]:
    """The episodes of a set, at the pipeline's image size; video-only ones without their actions.

    They are instructed in the words that a policy hears when it is tested: the simulator's for the task, where it has
    the same ones in every episode.

    Args:
        first: the number of the first of them. A recording has no scene seed: -1 - number stands for it.
    """
    cameras, size = [camera.name for camera in demos.cameras], demos.image_size
    names = [STATE, ACTION] if name == "labelled" else [STATE]
    for number, (dataset, index) in enumerate(places, first):
        record, seed = dataset.episodes[index], -1 - number
        task, length = record.task, record.length
        instruction = record.instruction if simulator.INSTRUCTION_PER_EPISODE else simulator.TASKS[task].instruction
        arrays = dataset.columns(index, names)
        if all(dataset.features[IMAGES + camera]["shape"][:2] == [size, size] for camera in cameras):
            stored = dataset.encoded(index)
            pngs, histograms = ({name: each[name] for name in cameras} for each in (stored.pngs, stored.histograms))
            yield EncodedEpisode(task, instruction, seed, length, pngs, histograms, arrays)
        else:
            images = {
                name: np.stack([_resize(frame, size) for frame in dataset.frames(index, name)]) for name in cameras
            }
            yield encode(Episode(task, instruction, seed, images, arrays))


def _resize(frame: np.ndarray, size: int) -> np.ndarray:
    # every pixel of the large picture counts: without that, thin objects flicker from frame to frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


def _check(dataset: EpisodeDataset, demos: Demos, simulator: Any) -> None:
    embodiment, where = simulator.EMBODIMENT, dataset.path / "meta/info.json"
    for camera in (IMAGES + each.name for each in demos.cameras):
        if camera not in dataset.features:
            raise BadInput(where, "features", dataset.cameras, f"{camera}", _REMEDY)
        height, width, _ = dataset.features[camera]["shape"]
        if not height == width >= demos.image_size:
            expected = f"square, at least demos.image_size = {demos.image_size}"
            raise BadInput(where, f"features.{camera}.shape", (height, width), expected, _REMEDY)
    convention = dataset.info.get("world2act", {}).get("image_convention")
    pairs = {
        "robot_type": (dataset.info.get("robot_type"), embodiment.name),
        "fps": (dataset.fps, embodiment.control_hz),
        f"features.{STATE}.names": (dataset.features.get(STATE, {}).get("names"), list(embodiment.proprio_names)),
        "world2act.image_convention": (convention, simulator.IMAGE_CONVENTION),
    }
    if ACTION in dataset.features:
        pairs[f"features.{ACTION}.names"] = (dataset.features[ACTION]["names"], list(embodiment.action_names))
    for key, (found, expected) in pairs.items():
        if found != expected:
            raise BadInput(where, key, found, expected, _REMEDY)
