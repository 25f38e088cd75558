"""Import: demonstrations of other software in, a dataset (LeRobot v3.0 as we write it) out.

Episodes are streamed. Unusable ones are set aside with the reason, in `set_aside.parquet` next to the data; if there
are too many, or none is usable, nothing is written. The lag between actions and observations is removed, so that
frame t is observed before action t, and is verified by the motion that follows the actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.storage import atomic_directory
from world2act.core.tables import write_rows
from world2act.data.episodes import Episode, encode
from world2act.data.features import IMAGES, Feature, array_feature, image_feature
from world2act.data.lerobot_v3_writer import DatasetWriter
from world2act.data.recording import ACTION, STATE
from world2act.formats.action_lag import ENOUGH, LagTest, SourceLag
from world2act.formats.importers.detect import find_importer
from world2act.formats.importers.recording import Recording, SetAside
from world2act.formats.importers.source import Source
from world2act.sims.simulator import load_simulator

SET_ASIDE_FILE = "set_aside.parquet"
SHARE = 0.05
_SHORTEST = 5  # the conditioning frame, and the four frames of a latent
_LISTED = 5


@dataclass(frozen=True)
class Imported:
    """The result of an import. `lag` is None where there are no actions."""

    format: str
    episodes: int
    frames: int
    set_aside: list[SetAside]
    left_out: list[str]
    lag: SourceLag | None


def import_dataset(
    src: str,
    dest: Path,
    *,
    format_: str | None = None,
    rename: Mapping[str, str] | None = None,
    lag: int | None = None,
    set_aside_share: float = SHARE,
    embodiment: str | None = None,
    pictures_like: str | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Imported:
    """Write the dataset `dest` from the demonstrations `src`.

    Args:
        src: a path, or s3://BUCKET/PREFIX.
        format_: an importer's name; by default detected.
        rename: names of elements of features, old → new.
        lag: steps by which the source stores observations after actions; by default what its format declares.
        set_aside_share: the share of episodes that may be set aside.
        embodiment: the robot's name, if the source has another name or none.
        pictures_like: a simulator with the same image convention, if the source does not declare one.
        progress: called with the number of episodes read, and of all (None where unknown).

    Raises:
        BadInput: `dest` exists, the source cannot be imported, or its lag is not the declared one.
        InfrastructureError: the S3 server failed, or the disk is full.
    """
    if dest.exists():
        raise BadInput(dest, "", "an existing path", "a path that does not exist", "choose another, or delete it")
    source = Source(src)
    recording = _renamed(find_importer(source, format_).open_recording(source), rename or {}, src)
    convention = load_simulator(pictures_like).image_convention if pictures_like else recording.image_convention
    robot = embodiment or recording.robot_type
    if not robot:
        raise BadInput(src, "the robot's name", "none", "a name", "give it with --embodiment")
    declared = lag if lag is not None else recording.lag
    if declared is None:
        raise BadInput(
            src, "the lag between action and motion", "not declared", "a number of steps", "give it with --lag"
        )
    test = _lag_test(src, recording, declared, stated=lag is not None)
    set_aside: list[SetAside] = []
    usable = _usable(recording, abs(declared), set_aside, progress)
    first = next(usable, None)
    if first is None:
        raise _too_many(src, set_aside, 0, set_aside_share)
    labelled = ACTION in recording.names
    frames = 0
    with (
        atomic_directory(dest) as folder,
        DatasetWriter(
            folder, features=_features(recording, first), fps=recording.fps, robot_type=robot, extra={}
        ) as writer,
    ):
        for index, episode in enumerate(chain([first], usable)):
            if labelled:
                test.add(episode.task, episode.arrays[ACTION], episode.arrays.get(STATE, np.zeros((0, 0))))
                if index + 1 == ENOUGH:  # fail early, rather than after hours at the end
                    test.check()
                episode = _shifted(episode, declared)
            if episode.seed < 0:
                episode = replace(episode, seed=-1 - index)
            encoded = encode(episode)
            writer.add(encoded)
            frames += encoded.length
        if len(set_aside) > set_aside_share * (index + 1 + len(set_aside)):
            raise _too_many(src, set_aside, index + 1, set_aside_share)
        lag_found = test.result() if labelled else None
        writer.set_splits({"train": range(index + 1)})
        writer.note(
            image_convention=convention,
            set="labelled" if labelled else "video_only",
            source={
                "format": recording.format,
                "files": [{"path": name, "sha256": digest} for name, digest in sorted(source.sha256.items())],
            },
        )
        if lag_found:
            writer.note(alignment=lag_found.record())
        write_rows(folder / SET_ASIDE_FILE, SetAside, set_aside)
    return Imported(recording.format, index + 1, frames, set_aside, list(recording.left_out), lag_found)


def _usable(
    recording: Recording, lag: int, set_aside: list[SetAside], progress: Callable[[int, int | None], None]
) -> Iterator[Episode]:
    """The usable episodes; the others are added to `set_aside`."""
    first: dict[str, tuple[int, ...]] | None = None
    for read, item in enumerate(recording.episodes, 1):
        progress(read, recording.total)
        if isinstance(item, SetAside):
            set_aside.append(item)
            continue
        name, episode = item
        shapes = {name: values.shape[1:] for name, values in (episode.images | episode.arrays).items()}
        if fault := _fault(episode, shapes, first or shapes, lag):
            set_aside.append(SetAside(name, fault))
            continue
        first = first or shapes
        yield episode


def _fault(
    episode: Episode, shapes: Mapping[str, tuple[int, ...]], first: Mapping[str, tuple[int, ...]], lag: int
) -> str | None:
    """Why an episode cannot be used; None where it can."""
    if not episode.instruction.strip():
        return "no instruction"
    if not episode.images:
        return "no camera"
    if shapes != first:
        differing = [name for name in sorted(first.keys() | shapes.keys()) if first.get(name) != shapes.get(name)]
        found, expected = (
            ", ".join(f"{name} {shape.get(name, 'missing')}" for name in differing) for shape in (shapes, first)
        )
        return f"{found}; the first episode has {expected}"
    lengths = {name: len(values) for name, values in (episode.images | episode.arrays).items()}
    if len(set(lengths.values())) != 1:
        return f"different lengths: {', '.join(f'{name} {length}' for name, length in lengths.items())}"
    length = next(iter(lengths.values())) - lag
    if length < _SHORTEST:
        return (
            f"{length} frames (without those that lag), fewer than {_SHORTEST}: the conditioning frame and one latent"
        )
    for name, values in episode.arrays.items():
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            return f"{name}: not a finite number, first in row {row}"
    for camera, images in episode.images.items():
        flat = images.reshape(len(images), -1)
        blank = flat.min(1) == flat.max(1)
        if blank.any():
            return f"{camera}: {int(blank.sum())} blank frames, the first is {int(blank.argmax())}"
        if (flat == flat[0]).all():
            return f"{camera}: the picture never changes"
    return None


def _shifted(episode: Episode, lag: int) -> Episode:
    """Shift observations so that frame t is observed before action t.

    `lag` observations without an action are dropped at one end, and actions without an observation at the other.
    """
    if lag == 0:
        return episode
    observed, acted = (slice(None, -lag), slice(lag, None)) if lag > 0 else (slice(-lag, None), slice(None, lag))
    images = {camera: frames[observed] for camera, frames in episode.images.items()}
    arrays = {
        name: values[acted if name == ACTION or name.startswith(f"{ACTION}.") else observed]
        for name, values in episode.arrays.items()
    }
    return replace(episode, images=images, arrays=arrays)


def _features(recording: Recording, first: Episode) -> dict[str, Feature]:
    images = {IMAGES + camera: image_feature(*frames.shape[1:3]) for camera, frames in first.images.items()}
    arrays = {
        name: array_feature(names, recording.dtypes.get(name, "float32")) for name, names in recording.names.items()
    }
    return images | arrays


def _renamed(recording: Recording, rename: Mapping[str, str], src: str) -> Recording:
    known = sorted({name for names in recording.names.values() for name in names})
    for old in rename:
        if old not in known:
            raise BadInput(src, f"--rename {old}={rename[old]}", f"elements named {known}", old, "correct the name")
    names = {key: [rename.get(name, name) for name in names] for key, names in recording.names.items()}
    for key, renamed in names.items():
        if len(set(renamed)) < len(renamed):
            raise BadInput(src, f"--rename, {key}", renamed, "distinct names", "give every element another name")
    return replace(recording, names=names)


def _lag_test(src: str, recording: Recording, declared: int, *, stated: bool) -> LagTest:
    """The test of the lag. Raises `BadInput` where it can neither be measured nor was stated."""
    actions, states = (recording.names.get(name, ()) for name in (ACTION, STATE))
    test = LagTest(src, declared, actions, states)
    if actions and not test.possible and not stated:
        raise BadInput(
            src,
            "the lag between action and motion",
            f"actions {list(actions)} and state {list(states)}, which have no axes in common",
            "delta_x, delta_y, delta_z in the actions and ee_x_m, ee_y_m, ee_z_m in the state",
            "name these elements with --rename OLD=NEW; or, if there are none, state the lag with --lag N: it is then "
            "recorded as unproven",
        )
    return test


def _too_many(src: str, set_aside: list[SetAside], good: int, share: float) -> BadInput:
    reasons = [f"\n              {episode.name}: {episode.reason}" for episode in set_aside[:_LISTED]]
    more = len(set_aside) - _LISTED
    found = f"{len(set_aside)} unusable episodes and {good} usable ones{''.join(reasons)}"
    if more > 0:
        found += f"\n              and {more} more"
    expected = f"at most {share:.0%} unusable, and at least one usable"
    return BadInput(src, "", found, expected, "repair the source, or allow more with --set-aside-share")
