"""What the world model sees of several cameras: their pictures tiled into one frame, and taken apart again.

In: views of one size, up to four. Out: one camera's frame as it is; of more a 2x2 grid, row by row in the order of
`demos.cameras`, black where there is no view, as the paper tiles RoboCasa (left, right, wrist) and LIBERO (agentview,
eye_in_hand). Pixels are copied and nothing is scaled, so that `untile` gives back every view to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from world2act.core.errors import BadInput
from world2act.data.lerobot_v3 import IMAGES, EpisodeDataset

_MOST = 4


@dataclass(frozen=True)
class Layout:
    """Where each view lies in a frame; it stands in the latent cache's meta.json under `views`.

    Attributes:
        names: of the cameras, row by row; tiles behind the last one are empty.
        rows, columns: of the grid.
        view_size: (height, width) of a view, pixels.
    """

    names: tuple[str, ...]
    rows: int
    columns: int
    view_size: tuple[int, int]

    @classmethod
    def of(cls, names: Sequence[str], view_size: Sequence[int]) -> Layout:
        """The layout of these cameras. Raises `BadInput` for more than four, or none."""
        if not 1 <= len(names) <= _MOST or len(set(names)) < len(names):
            expected = f"1 to {_MOST} cameras of different names"
            raise BadInput("params.yaml", "demos.cameras", list(names), expected, "leave some out")
        side = 1 if len(names) == 1 else 2
        height, width = view_size
        return cls(tuple(names), side, side, (height, width))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Layout:
        """The inverse of `to_json`."""
        return cls(tuple(values["names"]), values["rows"], values["columns"], tuple(values["view_size"]))

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.rows * self.view_size[0], self.columns * self.view_size[1]

    def tile(self, views: Mapping[str, np.ndarray]) -> np.ndarray:
        """Views uint8 (..., H, W, 3), one a camera, as frames (..., rows H, columns W, 3); one camera's are not copied.

        Raises:
            BadInput: the views are not those of the layout, or not of its size.
        """
        wrong = {name: view.shape for name, view in views.items() if view.shape[-3:] != (*self.view_size, 3)}
        if views.keys() != set(self.names) or wrong:
            found = wrong or sorted(views)
            raise BadInput("the views of a frame", "", found, self, "record with the cameras of params.yaml")
        if len(self.names) == 1:
            return views[self.names[0]]
        first = views[self.names[0]]
        frame = np.zeros((*first.shape[:-3], *self.frame_size, 3), first.dtype)
        for name, (rows, columns) in self._places().items():
            frame[..., rows, columns, :] = views[name]
        return frame

    def untile(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Frames (..., rows H, columns W, 3) as the views that `tile` made them of, by camera; not copied.

        Raises:
            BadInput: the frames have another size.
        """
        if frame.shape[-3:-1] != self.frame_size:
            expected = f"{self.frame_size}, of {self}"
            raise BadInput("a frame", "size", frame.shape[-3:-1], expected, "untile with the layout that tiled it")
        return {name: frame[..., rows, columns, :] for name, (rows, columns) in self._places().items()}

    def _places(self) -> dict[str, tuple[slice, slice]]:
        height, width = self.view_size
        return {
            name: (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            for name, (row, column) in zip(self.names, np.ndindex(self.rows, self.columns), strict=False)
        }


def layout_of(dataset: EpisodeDataset) -> Layout:
    """The layout of a recording's cameras. Raises `BadInput` where they are too many, or not of one size."""
    sizes = {camera: tuple(dataset.features[IMAGES + camera]["shape"][:2]) for camera in dataset.cameras}
    if len(set(sizes.values())) > 1:
        where = dataset.path / "meta/info.json"
        raise BadInput(where, "features", sizes, "cameras of one size", "record them at one demos.image_size")
    return Layout.of(dataset.cameras, next(iter(sizes.values()), (0, 0)))


def read_frames(dataset: EpisodeDataset, index: int, which: Sequence[int] | None = None) -> np.ndarray:
    """Frames of an episode as the world model sees them, uint8 (T, H, W, 3): `which`, or all of them."""
    return layout_of(dataset).tile({camera: dataset.frames(index, camera, which) for camera in dataset.cameras})
