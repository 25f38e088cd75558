"""Is the imagined object where this scene has it? A linear probe reads its position from latents.

In: real latents of training clips, labelled and video-only, and the privileged object positions recorded with them.
Out: positions that the probe reads from held-out clips, real and imagined, at the first latent after the conditioning
one and at the last, and how far off they are. Measurement only: nothing is trained on a privileged column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from world2act.core.latent_time import last_frame_of
from world2act.data.latent_cache import Clip, LatentCache
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import SCENE
from world2act.world_model.judging.baselines import Ridge

WHEN = ("start", "end")
_MOST_LATENTS = 2048  # of a task: what the probe is fitted on
_STILL_M = 0.002  # a coordinate that varies less, over a task's training frames, is not an object's


@dataclass(frozen=True)
class PositionProbe:
    """Of one task. `columns`: which of the scene's numbers are coordinates of objects that move or vary."""

    columns: tuple[int, ...]
    ridge: Ridge

    def read(self, latent: np.ndarray) -> np.ndarray:
        """The coordinates (K,), metres, in a latent (C, h, w)."""
        return self.ridge.predict(latent.reshape(1, -1).astype(np.float64))[0]


def fit_probes(
    cache: LatentCache, datasets: Mapping[str, EpisodeDataset], tasks: Sequence[str]
) -> dict[str, PositionProbe]:
    """Task → its probe; tasks whose recordings hold no object position have none.

    Args:
        datasets: "labelled" and "video_only".
    """
    probes = {}
    for task in tasks:
        clips = [
            clip
            for clip in cache.clips
            if (clip.task, clip.subset) == (task, "train") and coordinates(datasets[clip.dataset])
        ]
        places = [(clip, k) for clip in clips for k in range(clip.latents)]
        if not places:
            continue
        chosen = np.unique(np.linspace(0, len(places) - 1, _MOST_LATENTS).round().astype(int))
        scenes = {(c.dataset, c.episode_index): scene(datasets[c.dataset], c.episode_index) for c in clips}
        latents = np.stack([cache.latents(places[i][0])[places[i][1]].ravel() for i in chosen]).astype(np.float64)
        found = np.stack([_at(scenes, *places[i]) for i in chosen]).astype(np.float64)
        names = coordinates(datasets[clips[0].dataset])
        columns = tuple(column for column in names if found[:, column].std() > _STILL_M)
        if columns:
            probes[task] = PositionProbe(columns, Ridge(latents, found[:, columns]))
    return probes


def coordinates(dataset: EpisodeDataset) -> tuple[int, ...]:
    """The columns of the recorded scene that are metres of an object; those of targets are not."""
    feature = dataset.features.get(SCENE)
    names = (feature.get("names") if feature else None) or []
    return tuple(i for i, name in enumerate(names) if re.fullmatch(r"(?!target).+_[xyz]_m", name))


def scene(dataset: EpisodeDataset, episode: int) -> np.ndarray:
    """The recorded scene at every frame, (T, K)."""
    return dataset.columns(episode, [SCENE])[SCENE]


def positions(
    probe: PositionProbe, clip: Clip, recorded: np.ndarray, videos: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """What the probe reads from each video of a clip, (T, C, h, w) by method, next to the truth.

    Args:
        recorded: (frames, K), the scene over the clip's episode.
    """
    rows = []
    for when, latent in zip(WHEN, (1, clip.latents - 1), strict=True):
        true = recorded[clip.start + last_frame_of(latent), list(probe.columns)].astype(np.float64).tolist()
        for method, video in videos.items():
            rows.append({"method": method, "when": when, "true_m": true, "read_m": probe.read(video[latent]).tolist()})
    return rows


def summarise_positions(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Method → "start", "end" and "move" (from one to the other) → error_cm, r2 and correlation.

    The error is the mean over clips of the distance between read and true coordinates. R² and correlation are of the
    deviations from the mean over the held-out clips of the same skill: what is specific to the scene. An R² of 0 is
    what the skill's mean would have.
    """
    clips: dict[tuple[Any, ...], dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for row in rows:
        key = (row["method"], row["task"], row["skill_index"], row["prompt"], row["episode_index"])
        clips.setdefault(key, {})[row["when"]] = (np.array(row["true_m"]), np.array(row["read_m"]))
    skills: dict[tuple[str, str], dict[tuple[Any, ...], list[tuple[np.ndarray, np.ndarray]]]] = {}
    for (method, *skill, _), found in clips.items():
        (start_true, start_read), (end_true, end_read) = found["start"], found["end"]
        for when, pair in (*found.items(), ("move", (end_true - start_true, end_read - start_read))):
            skills.setdefault((method, when), {}).setdefault(tuple(skill), []).append(pair)
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for (method, when), groups in skills.items():
        summary.setdefault(method, {})[when] = _agreement(list(groups.values()))
    return summary


def _agreement(groups: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
    distances, missed, spread, both, read_spread = [], 0.0, 0.0, 0.0, 0.0
    for pairs in groups:
        true, read = (np.stack(values) for values in zip(*pairs, strict=True))
        distances += np.linalg.norm(read - true, axis=1).tolist()
        deviation, read_deviation = true - true.mean(0), read - read.mean(0)
        missed, spread = missed + np.square(read - true).sum(), spread + np.square(deviation).sum()
        both, read_spread = both + (deviation * read_deviation).sum(), read_spread + np.square(read_deviation).sum()
    scale = float(np.sqrt(spread * read_spread))
    return {
        "error_cm": 100 * float(np.mean(distances)),
        "r2": float(1 - missed / spread) if spread else 0.0,
        "correlation": float(both / scale) if scale else 0.0,
    }


def _at(scenes: Mapping[tuple[str, int], np.ndarray], clip: Clip, latent: int) -> np.ndarray:
    return scenes[clip.dataset, clip.episode_index][clip.start + last_frame_of(latent)]
