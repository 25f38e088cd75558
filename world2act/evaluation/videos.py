"""Logged episodes, replayed and filmed: mp4 for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from world2act.evaluation.rollout import EpisodeResult
from world2act.sims.pool import EnvironmentPool
from world2act.storage import file_stem

# crf 23 is x264's own default. Its choice of B-frames was seen to differ from run to run, on one thread too, so there
# are none: 8 % more bytes, always the same.
_X264 = {"crf": "23", "threads": "1", "bf": "0"}


def choose_episodes(results: Sequence[EpisodeResult], per_task: int) -> list[EpisodeResult]:
    """Up to `per_task` episodes of each task, successes and failures in turn, the first of each first."""
    chosen = []
    for task in dict.fromkeys(result.task for result in results):
        kinds = [[r for r in results if r.task == task and r.success is success] for success in (True, False)]
        turns = [kind[i] for i in range(per_task) for kind in kinds if i < len(kind)]
        chosen += turns[:per_task]
    return chosen


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Encode frames as H.264 in mp4, the same bytes for the same frames.

    Args:
        frames: uint8 (T, H, W, 3), H and W even.
    """
    with av.open(str(path), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=_X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def film(
    directory: Path,
    policy: str,
    results: Sequence[EpisodeResult],
    pool: EnvironmentPool,
    *,
    per_task: int,
    size: int,
    fps: int,
) -> None:
    """Replay chosen episodes at `size` pixels a side into `<policy>-<task>-<seed>-<success|failure>.mp4`."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in choose_episodes(results, per_task):
        frames = pool.replay(pool.tasks.index(result.task), result.seed, result.actions, size)
        outcome = "success" if result.success else "failure"
        write_video(directory / f"{policy}-{file_stem(result.task)}-{result.seed}-{outcome}.mp4", frames, fps)
