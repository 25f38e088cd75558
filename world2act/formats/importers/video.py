"""Frames of a video by timestamp: an mp4 (any codec that PyAV decodes) in, uint8 images out."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class FrameMissing(Exception):
    """The video has no such frame, or cannot be decoded."""


def frames_at(path: Path, seconds: np.ndarray, tolerance: float) -> np.ndarray:
    """The frames shown at ascending `seconds`, uint8 (N, H, W, 3).

    Args:
        tolerance: the largest difference from a frame's time, in seconds.

    Raises:
        FrameMissing: no frame is close enough, or the file is damaged.
    """
    frames: list[np.ndarray] = []
    colours = VideoReformatter()  # shared by all frames: setting one up takes longer than using it
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            start = max(float(seconds[0]) - tolerance, 0)
            if stream.time_base is None:
                raise FrameMissing("a video without a time base")
            container.seek(int(start / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                while len(frames) < len(seconds) and abs(frame.time - seconds[len(frames)]) <= tolerance:
                    frames.append(colours.reformat(frame, format="rgb24").to_ndarray())
                if len(frames) == len(seconds) or frame.time > seconds[len(frames)] + tolerance:
                    break
    except (av.FFmpegError, IndexError, OSError) as error:
        raise FrameMissing(f"a video that cannot be decoded: {error}") from error
    if len(frames) < len(seconds):
        raise FrameMissing(
            f"no frame at {seconds[len(frames)]:.3f} s, frame {len(frames)} of the {len(seconds)} of the episode"
        )
    return np.stack(frames)
