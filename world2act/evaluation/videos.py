"""Films of logged episodes, which are replayed for them: mp4 for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from world2act.core.storage import file_stem
from world2act.evaluation.rollout import EpisodeResult
from world2act.films.video import write_video
from world2act.sims.pool import EnvironmentPool


def choose_episodes(results: Sequence[EpisodeResult], per_task: int) -> list[EpisodeResult]:
    """Up to `per_task` episodes of each task, alternating between successes and failures, in the order of `results`."""
    chosen = []
    for task in dict.fromkeys(result.task for result in results):
        kinds = [[r for r in results if r.task == task and r.success is success] for success in (True, False)]
        turns = [kind[i] for i in range(per_task) for kind in kinds if i < len(kind)]
        chosen += turns[:per_task]
    return chosen


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
    """Replay chosen episodes, `size` pixels per side, into `<policy>-<task>-<seed>-<success|failure>.mp4`."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in choose_episodes(results, per_task):
        frames = pool.replay(pool.tasks.index(result.task), result.seed, result.actions, size)
        outcome = "success" if result.success else "failure"
        write_video(directory / f"{policy}-{file_stem(result.task)}-{result.seed}-{outcome}.mp4", frames, fps)
