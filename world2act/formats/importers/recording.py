"""What an importer returns: a `Recording` of a source, which yields usable and unusable episodes one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from world2act.data.episodes import Episode

UPRIGHT = "upright, as the source stores it"


@dataclass(frozen=True)
class SetAside:
    """An episode, or a whole file, that cannot be used. `name`: where it is in the source."""

    name: str
    reason: str


@dataclass(frozen=True)
class Recording:
    """A source of episodes, and what is true of all of them.

    Attributes:
        format: libero, robocasa, lerobot or folder, with its version where it has one.
        fps: control steps per second.
        robot_type: the embodiment; None where the source does not say.
        image_convention: which way up the frames of `episodes` are, in words.
        lag: by how many steps the format stores observations after actions; None where it declares nothing.
        names: feature → names of its elements.
        total: the number of episodes, usable or not; None where it is not known in advance.
        episodes: (name, episode) as they are stored, or the reason why one is unusable.
        dtypes: feature → dtype, where it is not float32.
        left_out: features that are neither numbers nor images.
    """

    format: str
    fps: int
    robot_type: str | None
    image_convention: str
    lag: int | None
    names: Mapping[str, Sequence[str]]
    total: int | None
    episodes: Iterator[tuple[str, Episode] | SetAside]
    dtypes: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
