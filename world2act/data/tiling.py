"""Tiling: the images of several cameras as one frame for the world model, and back.

Input: up to four views of one size. Output: a single camera's image unchanged; for several cameras a 2x2 grid, row by
row in the order of `demos.cameras`, black where there is no view. The paper tiles RoboCasa (left, right, wrist) and
LIBERO (agentview, eye_in_hand) in the same way. Pixels are copied, never scaled, so `untile` returns the exact views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from world2act.core.errors import BadInput
from world2act.data.features import IMAGES
from world2act.data.info import INFO_PATH
from world2act.data.lerobot_v3 import EpisodeDataset

_MOST = 4


class LayoutJson(TypedDict):
    """A `Layout` as meta.json holds it."""

    names: list[str]
    rows: int
    columns: int
    view_size: list[int]


@dataclass(frozen=True)
class Layout:
    """The position of each view in a frame; saved in the latent cache's meta.json as `views`.

    Attributes:
        names: the cameras, row by row; the tiles after the last one are empty.
        rows, columns: the size of the grid.
        view_size: (height, width) of a view, pixels.
    """

    names: tuple[str, ...]
    rows: int
    columns: int
    view_size: tuple[int, int]

    @classmethod
    def of(cls, names: Sequence[str], view_size: Sequence[int]) -> Layout:
        """The layout of these cameras. Raises `BadInput` unless there are one to four."""
        if not 1 <= len(names) <= _MOST or len(set(names)) < len(names):
            expected = f"1 to {_MOST} cameras with different names"
            raise BadInput("params.yaml", "demos.cameras", list(names), expected, "remove some, or rename them")
        side = 1 if len(names) == 1 else 2
        height, width = view_size
        return cls(tuple(names), side, side, (height, width))

    @classmethod
    def from_json(cls, values: LayoutJson) -> Layout:
        """The inverse of `to_json`."""
        height, width = values["view_size"]
        return cls(tuple(values["names"]), values["rows"], values["columns"], (height, width))

    def to_json(self) -> LayoutJson:
        return {
            "names": list(self.names),
            "rows": self.rows,
            "columns": self.columns,
            "view_size": list(self.view_size),
        }

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.rows * self.view_size[0], self.columns * self.view_size[1]

    def tile(self, views: Mapping[str, np.ndarray]) -> np.ndarray:
        """Tile views uint8 (..., H, W, 3) into frames (..., rows H, columns W, 3). A single camera's are not copied.

        Raises:
            BadInput: the views have other names or another size than the layout.
        """
        wrong = {name: view.shape for name, view in views.items() if view.shape[-3:] != (*self.view_size, 3)}
        if views.keys() != set(self.names) or wrong:
            found = wrong or sorted(views)
            raise BadInput("the views of a frame", "", found, self, "record with the cameras that params.yaml names")
        if len(self.names) == 1:
            return views[self.names[0]]
        first = views[self.names[0]]
        frame = np.zeros((*first.shape[:-3], *self.frame_size, 3), first.dtype)
        for name, (rows, columns) in self._regions().items():
            frame[..., rows, columns, :] = views[name]
        return frame

    def untile(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Take frames (..., rows H, columns W, 3) apart into the views that `tile` got, by camera; they are not copied.

        Raises:
            BadInput: the frames have another size.
        """
        if frame.shape[-3:-1] != self.frame_size:
            expected = f"{self.frame_size}, as {self} has"
            raise BadInput("a frame", "size", frame.shape[-3:-1], expected, "untile it with the layout that tiled it")
        return {name: frame[..., rows, columns, :] for name, (rows, columns) in self._regions().items()}

    def _regions(self) -> dict[str, tuple[slice, slice]]:
        height, width = self.view_size
        return {
            name: (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            for name, (row, column) in zip(self.names, np.ndindex(self.rows, self.columns), strict=False)
        }


def layout_of(dataset: EpisodeDataset) -> Layout:
    """The layout of a dataset's cameras. Raises `BadInput` where there are too many, or they differ in size."""
    sizes = {camera: tuple(dataset.features[IMAGES + camera]["shape"][:2]) for camera in dataset.cameras}
    if len(set(sizes.values())) > 1:
        remedy = "record all cameras at the same demos.image_size"
        raise BadInput(dataset.path / INFO_PATH, "features", sizes, "cameras of one size", remedy)
    return Layout.of(dataset.cameras, next(iter(sizes.values()), (0, 0)))


def read_frames(dataset: EpisodeDataset, index: int, which: Sequence[int] | None = None) -> np.ndarray:
    """Frames of an episode as the world model sees them, uint8 (T, H, W, 3): `which`, by default all."""
    return layout_of(dataset).tile({camera: dataset.frames(index, camera, which) for camera in dataset.cameras})
