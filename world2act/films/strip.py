"""PNG strips to look at: videos one above another, a few frames of each side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_COLUMNS, _GAP = 8, 2


def save_strip(path: Path, videos: Sequence[np.ndarray]) -> None:
    """Write one row per video, uint8 (T, H, W, 3) each: up to 8 frames, evenly spaced, first and last among them."""
    rows = []
    for video in videos:
        chosen = np.unique(np.linspace(0, len(video) - 1, _COLUMNS).round().astype(int))
        frames = [np.pad(video[i], ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for i in chosen]
        blank = np.full_like(frames[0], 255)
        rows.append(np.concatenate(frames + [blank] * (_COLUMNS - len(frames)), axis=1))
    Image.fromarray(np.concatenate(rows)[:-_GAP, :-_GAP]).save(path, optimize=False)
