"""How good imagination is on held-out clips: heldout.parquet and metrics, from the latent cache.

Beside the world model stand the bars it must pass: repeating the first frame, the mean training video of the skill,
and a ridge regression from the first frame. The control imagines from the first frame of another clip of the same
skill: what it still gets right is the skill and the clip's length, which imagination is given, not the scene; the
mean of the training clips nearest in length shows how much the length alone says. Errors are mean squared errors of
normalised latents, conditioning latents left out; a correlation is that of imagined with true deviations from the
skill's mean video.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from world2act.data.latent_cache import Clip, LatentCache
from world2act.params import Sampler
from world2act.storage import file_stem
from world2act.world_model.generation import WorldModel
from world2act.world_model.preview import save_strip
from world2act.world_model.tokenizer import VideoTokenizer

_NUMBERS = (
    "error_model",
    "error_one_sample",
    "error_first_frame",
    "error_skill_mean",
    "error_length_mean",
    "error_ridge",
    "error_shuffled",
    "correlation",
    "correlation_ridge",
    "correlation_shuffled",
)
HELDOUT_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("task", pa.string()),
        ("skill_index", pa.int64()),
        ("prompt", pa.string()),
        ("latents", pa.int64()),
    ]
    + [(name, pa.float64()) for name in _NUMBERS]
)
_PREVIEWS_A_SKILL = 2
_RIDGE_STRENGTHS = 10.0 ** np.arange(-1, 5)


def measure(
    world_model: WorldModel,
    cache: LatentCache,
    train: Sequence[Clip],
    heldout: Sequence[Clip],
    *,
    samples: int,
    seed: int,
    sampler: Sampler,
    batch_size: int = 64,
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Imagine every held-out clip from its own first frame, `samples` times, and compare with what happened.

    Returns:
        The rows of heldout.parquet, and one sample a clip (T, C, h, w). Where a skill has a single held-out clip the
        control has no other first frame, and its columns are None.
    """
    sources = _first_frames_of_others(heldout)
    imagine = _Imagination(world_model, cache, sampler, batch_size)
    own = [imagine(heldout, heldout, seed + 2 * k) for k in range(samples)]
    shuffled = [imagine(heldout, [heldout[i] for i in sources], seed + 2 * k + 1) for k in range(samples)]
    baselines = {
        prompt: _Baseline([cache.latents(c) for c in train if c.prompt == prompt])
        for prompt in sorted({c.prompt for c in heldout})
    }
    rows = []
    for i, clip in enumerate(heldout):
        truth = np.array(cache.latents(clip), np.float64)
        mean = baselines[clip.prompt].mean(clip.latents)
        ridge = baselines[clip.prompt].ridge(truth[0], clip.latents)
        model, control = (np.mean([videos[i] for videos in drawn], axis=0) for drawn in (own, shuffled))
        alone = sources[i] == i
        rows.append(
            {
                "episode_index": clip.episode_index,
                "task": clip.task,
                "skill_index": clip.skill_index,
                "prompt": clip.prompt,
                "latents": clip.latents,
                "error_model": _error(model, truth),
                "error_one_sample": _error(own[0][i], truth),
                "error_first_frame": _error(np.broadcast_to(truth[0], truth.shape), truth),
                "error_skill_mean": _error(mean, truth),
                "error_length_mean": _error(baselines[clip.prompt].nearest_in_length(clip.latents), truth),
                "error_ridge": _error(ridge, truth),
                "error_shuffled": None if alone else _error(control, truth),
                "correlation": _correlation(model - mean, truth - mean),
                "correlation_ridge": _correlation(ridge - mean, truth - mean),
                "correlation_shuffled": None if alone else _correlation(control - mean, truth - mean),
            }
        )
    return rows, own[0]


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over clips of every column of numbers, clips without a value left out."""
    values = {name: [row[name] for row in rows if row[name] is not None] for name in _NUMBERS}
    return {name: float(np.mean(column)) for name, column in values.items() if column}


def save_previews(
    directory: Path,
    tokenizer: VideoTokenizer,
    cache: LatentCache,
    clips: Sequence[Clip],
    imagined: Sequence[np.ndarray],
) -> None:
    """PNG strips of the first held-out clips of each skill: what happened (decoded) above what was imagined."""
    directory.mkdir()
    for prompt in sorted({clip.prompt for clip in clips}):
        for i in [i for i, clip in enumerate(clips) if clip.prompt == prompt][:_PREVIEWS_A_SKILL]:
            videos = torch.from_numpy(np.stack([cache.latents(clips[i]), imagined[i]]))
            name = f"{file_stem(clips[i].task)}-{clips[i].skill_index}-episode-{clips[i].episode_index}.png"
            save_strip(directory / name, list(tokenizer.decode(videos)))


class _Imagination:
    def __init__(self, world_model: WorldModel, cache: LatentCache, sampler: Sampler, batch_size: int) -> None:
        self._world_model, self._cache, self._batch_size = world_model, cache, batch_size
        self._sampler = sampler
        self._embeds = torch.from_numpy(np.array(cache.prompt_embeds))

    def __call__(self, clips: Sequence[Clip], first_frames: Sequence[Clip], seed: int) -> list[np.ndarray]:
        """As long as `clips`, by their prompts, from the first latents of `first_frames`."""
        imagined: dict[int, np.ndarray] = {}
        for length in sorted({clip.latents for clip in clips}):
            same = [i for i, clip in enumerate(clips) if clip.latents == length]
            for start in range(0, len(same), self._batch_size):
                batch = same[start : start + self._batch_size]
                conditioning = np.stack([self._cache.latents(first_frames[i])[0] for i in batch])
                latents = self._world_model.imagine(
                    torch.from_numpy(conditioning),
                    self._embeds[[clips[i].prompt_row for i in batch]],
                    self._embeds[self._cache.no_prompt],
                    latents=length,
                    seeds=[seed * 1_000_003 + i for i in batch],
                    sampler=self._sampler,
                )
                imagined |= dict(zip(batch, latents.numpy(), strict=True))
        return [imagined[i] for i in range(len(clips))]


class _Baseline:
    """What training clips of one skill say of a new one, latent by latent. Clips too short for a latent sit it out,
    and beyond the longest training clip its last latent is held."""

    def __init__(self, clips: Sequence[np.ndarray]) -> None:
        self._clips = [clip.astype(np.float64) for clip in clips]

    def mean(self, latents: int) -> np.ndarray:
        return np.stack([np.mean([c[k] for c in self._with(k)], axis=0) for k in self._steps(latents)])

    def nearest_in_length(self, latents: int) -> np.ndarray:
        gap = min(abs(len(clip) - latents) for clip in self._clips)
        return _Baseline([clip for clip in self._clips if abs(len(clip) - latents) == gap]).mean(latents)

    def ridge(self, first: np.ndarray, latents: int) -> np.ndarray:
        """Ridge regression of each latent on the first one, its strength chosen by leave-one-out on training clips."""
        predicted = [
            _fit_ridge(
                np.stack([c[0].ravel() for c in self._with(k)]),
                np.stack([c[k].ravel() for c in self._with(k)]),
                first.ravel(),
            )
            for k in self._steps(latents)
        ]
        return np.stack(predicted).reshape(latents, *first.shape)

    def _steps(self, latents: int) -> list[int]:
        longest = max(map(len, self._clips))
        return [min(k, longest - 1) for k in range(latents)]

    def _with(self, k: int) -> list[np.ndarray]:
        return [clip for clip in self._clips if len(clip) > k]


def _fit_ridge(inputs: np.ndarray, targets: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Predict the target of `query` (P,) from inputs (n, P) and targets (n, Q), in the dual form, since P > n."""
    x_mean, y_mean = inputs.mean(0), targets.mean(0)
    x, y, cross = inputs - x_mean, targets - y_mean, (inputs - x_mean) @ (query - x_mean)
    gram, best, lowest = x @ x.T, y_mean, np.inf
    if len(x) < 3:
        return y_mean
    for strength in _RIDGE_STRENGTHS:
        solved = np.linalg.solve(gram + strength * np.eye(len(x)), np.column_stack([y, gram]))
        fitted, hat = gram @ solved[:, : y.shape[1]], solved[:, y.shape[1] :] + 1 / len(x)  # the mean is fitted too
        error = float(np.square((y - fitted) / (1 - np.diag(hat))[:, None]).mean())
        if error < lowest:
            best, lowest = y_mean + cross @ solved[:, : y.shape[1]], error
    return best


def _first_frames_of_others(clips: Sequence[Clip]) -> list[int]:
    """For each clip the index of the next one of the same skill, in a ring."""
    following = list(range(len(clips)))
    for prompt in {clip.prompt for clip in clips}:
        same = [i for i, clip in enumerate(clips) if clip.prompt == prompt]
        for i, j in zip(same, same[1:] + same[:1], strict=True):
            following[i] = j
    return following


def _error(video: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(video[1:] - truth[1:]).mean())


def _correlation(imagined: np.ndarray, true: np.ndarray) -> float:
    """Of the deviations after the conditioning latent; 0 where one of them does not vary."""
    a, b = (deviation[1:].ravel() - deviation[1:].mean() for deviation in (imagined, true))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale else 0.0
