"""What an importer gives: a `Recording` of a source, whose episodes come one by one, good ones and bad ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from world2act.data.episodes import Episode

UPRIGHT = "upright, as the source stores it"


@dataclass(frozen=True)
class SetAside:
    """An episode, or a whole file, that cannot be used. `name`: its place in the source."""

    name: str
    reason: str


@dataclass(frozen=True)
class Recording:
    """What a source says of all its episodes.

    Attributes:
        format: libero, robocasa, lerobot or folder, with its version where it has one.
        fps: control steps a second.
        robot_type: the embodiment; None where the source does not say.
        image_convention: how the frames of `episodes` stand.
        lag: by how many steps the format stores observations after actions; None where it declares nothing.
        names: feature → names of its elements. dtypes: those that are not float32.
        total: how many episodes there may be.
        episodes: one by one, as they are stored; names of episodes beside them.
        left_out: features that are no numbers and no pictures.
    """

    format: str
    fps: int
    robot_type: str | None
    image_convention: str
    lag: int | None
    names: Mapping[str, Sequence[str]]
    total: int
    episodes: Iterator[tuple[str, Episode] | SetAside]
    dtypes: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
