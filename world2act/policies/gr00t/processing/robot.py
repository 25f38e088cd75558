"""Which of a robot's cameras, proprioception and actions each part of a checkpoint's modalities is.

Declared in params.yaml as base_policy.gr00t.{views, state, action}: `{view: camera}`, `{part: [names]}`. Null where a
part is called as the robot's own number is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from world2act.core.errors import BadInput
from world2act.data.features import element_names
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.policies.dataset import image_side
from world2act.policies.normalisation import ACTION, PROPRIO

_WHERE = "params.yaml"


@dataclass(frozen=True)
class Robot:
    """What a robot calls what it sees, feels and does; pictures are square, `image_size` pixels a side."""

    cameras: tuple[str, ...]
    image_size: int
    proprio: tuple[str, ...]
    actions: tuple[str, ...]

    @classmethod
    def of(cls, dataset: EpisodeDataset) -> Self:
        """The one that these demonstrations are of. Raises `BadInput`: pictures are not square and of one size."""
        proprio, actions = (tuple(element_names(dataset.features, feature)) for feature in (PROPRIO, ACTION))
        return cls(tuple(dataset.cameras), image_side(dataset), proprio, actions)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the values of a processor_config.json. Raises `TypeError`: a key is missing or unknown."""
        if values.keys() != (expected := {field.name for field in fields(cls)}):
            raise TypeError(f"robot: {sorted(values)} instead of {sorted(expected)}")
        cameras, proprio, actions = (tuple(values[key]) for key in ("cameras", "proprio", "actions"))
        return cls(cameras, values["image_size"], proprio, actions)

    def places(self, kind: Literal["proprio", "actions"], names: Sequence[str]) -> list[int]:
        """The positions of these names. Raises `BadInput` for one that the robot does not have."""
        elements = getattr(self, kind)
        unknown = [name for name in names if name not in elements]
        if unknown:
            raise _unfit("state" if kind == "proprio" else "action", unknown, f"names among {list(elements)}")
        return [elements.index(name) for name in names]


@dataclass(frozen=True)
class Names:
    """The declaration. A part of the action that is given no names is left to nobody: it is neither learned nor
    carried out."""

    views: Mapping[str, str] | None = None
    state: Mapping[str, Sequence[str]] | None = None
    action: Mapping[str, Sequence[str]] | None = None


def find_cameras(views: Sequence[str], robot: Robot, declared: Mapping[str, str] | None) -> list[str]:
    """The robot's camera of each view. Raises `BadInput`: there is none, or an unknown view was declared."""
    _refuse_unknown("views", declared, views)
    cameras = [(declared or {}).get(view, view) for view in views]
    for view, camera in zip(views, cameras, strict=True):
        if camera not in robot.cameras:
            raise _unfit(f"views.{view}", camera, f"one of the cameras {list(robot.cameras)}")
    return cameras


def find_numbers(
    modality: str, widths: Mapping[str, int], names: Sequence[str], declared: Mapping[str, Sequence[str]] | None
) -> dict[str, list[int]]:
    """Where the numbers of each part are among the robot's.

    Args:
        modality: "state" or "action".
        widths: part → how many numbers it is, by its statistics.
        names: of the robot's proprioception or actions.

    Raises:
        BadInput: a name that the robot does not have, a part of another width, an action that no part or more than
            one part fills.
    """
    _refuse_unknown(modality, declared, widths)
    places: dict[str, list[int]] = {}
    for part, width in widths.items():
        wanted = list((declared or {}).get(part, [part]))
        key = f"{modality}.{part}"
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise _unfit(key, unknown, f"names among {list(names)}")
        if len(wanted) != width and not (modality == "action" and not wanted):
            raise _unfit(key, f"{len(wanted)} numbers, {wanted}", f"{width} numbers, as the statistics have")
        places[part] = [names.index(name) for name in wanted]
    if modality == "action":
        filled = [index for indices in places.values() for index in indices]
        wrong = [name for index, name in enumerate(names) if filled.count(index) != 1]
        if wrong:
            raise _unfit("action", f"{wrong}, in no part or in more than one", f"each of {list(names)} in one part")
    return places


def _refuse_unknown(modality: str, declared: Mapping[str, object] | None, known: Iterable[str]) -> None:
    unknown = sorted(set(declared or {}) - set(known))
    if unknown:
        raise _unfit(modality, unknown, f"parts among {list(known)}")


def _unfit(key: str, found: object, expected: str) -> BadInput:
    return BadInput(_WHERE, f"base_policy.gr00t.{key}", found, expected, "correct the declaration, or record the data")
