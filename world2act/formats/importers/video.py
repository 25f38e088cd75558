"""Frames of a video by their timestamps: an mp4 in (AV1, H.264, whatever PyAV decodes), uint8 pictures out."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class FrameMissing(Exception):
    """A frame that the video does not hold, or a video that cannot be decoded."""


def frames_at(path: Path, seconds: np.ndarray, tolerance: float) -> np.ndarray:
    """The frames shown at ascending `seconds`, uint8 (N, H, W, 3).

    Args:
        tolerance: how far a frame's own time may be off, in seconds.

    Raises:
        FrameMissing: no frame lies so near, or the file is damaged.
    """
    frames: list[np.ndarray] = []
    colours = VideoReformatter()  # one for all frames: a frame's own takes longer to set up than to use
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            start = max(float(seconds[0]) - tolerance, 0)
            container.seek(int(start / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                while len(frames) < len(seconds) and abs(frame.time - seconds[len(frames)]) <= tolerance:
                    frames.append(colours.reformat(frame, format="rgb24").to_ndarray())
                if len(frames) == len(seconds) or frame.time > seconds[len(frames)] + tolerance:
                    break
    except (av.FFmpegError, IndexError, OSError) as error:
        raise FrameMissing(f"no video that can be decoded: {error}") from error
    if len(frames) < len(seconds):
        raise FrameMissing(
            f"no frame at {seconds[len(frames)]:.3f} s, frame {len(frames)} of the {len(seconds)} of the episode"
        )
    return np.stack(frames)
