"""What a world model must beat: predictions of a skill clip from its first latent, without any network.

In: the latents of training clips of one skill. Out: for a query, the first latent held still, the mean training video,
a ridge regression, and the training clip whose first latent is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BASELINES = {
    "first_frame": "repeat the first frame",
    "skill_mean": "mean training video of the skill",
    "ridge": "ridge regression from the first frame",
    "nearest": "nearest training clip",
}
STRENGTHS = 10.0 ** np.arange(-3, 3.5, 0.5)
"""Of a ridge regression, in units of the mean variance along the directions that the inputs span."""
_MOST_CLIPS = 512  # of a skill: more would not fit in memory at full size, and say little more


class Ridge:
    """Ridge regression of targets (n, Q) on inputs (n, P), n above or below P, its strength chosen by leave-one-out."""

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self._input_mean, self._target_mean = inputs.mean(0), targets.mean(0)
        x, y = inputs - self._input_mean, targets - self._target_mean
        left, scales, self._right = _decompose(x)
        along = left.T @ y
        best, lowest = np.zeros(len(scales)), np.square(y).mean() if len(x) > 1 else 0.0
        for strength in STRENGTHS * np.square(scales).mean() if len(x) > 2 and len(scales) else ():
            kept = scales**2 / (scales**2 + strength)
            leverage = np.square(left) @ kept + 1 / len(x)  # the mean is fitted too
            error = float(np.square((y - left @ (kept[:, None] * along)) / (1 - leverage)[:, None]).mean())
            if error < lowest:
                best, lowest = scales / (scales**2 + strength), error
        self._weights = best[:, None] * along

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(m, P) → (m, Q)."""
        return self._target_mean + (inputs - self._input_mean) @ self._right @ self._weights


def _decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x = left · diag(scales) · right^T by its smaller Gram matrix, without directions of no variance."""
    wide = x.shape[0] <= x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    varies = values > 1e-10 * max(values.max(initial=0.0), 1e-300)
    scales, vectors = np.sqrt(values[varies]), vectors[:, varies]
    return (vectors, scales, x.T @ vectors / scales) if wide else (x @ vectors / scales, scales, vectors)


class SkillBaselines:
    """What training clips of one skill say of a new one, latent by latent. Clips too short for a latent sit it out, and
    beyond the longest training clip its last latent is held. Of more than 512 clips, 512 evenly spaced ones count.

    Args:
        clips: float32 (T, C, h, w) each.
        inputs: what each clip is predicted from, (C, h, w) each: its own first latent, or the first one of its episode.
    """

    def __init__(self, clips: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> None:
        chosen = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), _MOST_CLIPS)).round().astype(int))
        self._clips = [clips[i] for i in chosen]
        self._inputs = np.stack([inputs[i] for i in chosen]).reshape(len(chosen), -1).astype(np.float64)

    def predict(self, queries: Sequence[np.ndarray], lengths: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """The keys of `BASELINES` → float64 (T, C, h, w), for each query (C, h, w) and T of `lengths`."""
        mean, longest = self.mean(max(lengths)), self._longest
        flat = np.stack(queries).reshape(len(queries), -1).astype(np.float64)
        ridges = np.stack([self._ridge(k).predict(flat) for k in range(min(max(lengths), longest))], axis=1)
        distances = np.square(flat[:, None] - self._inputs).sum(-1)
        predicted = []
        for query, ridge, distance, latents in zip(queries, ridges, distances, lengths, strict=True):
            nearest = self._clips[int(distance.argmin())]
            predicted.append(
                {
                    "first_frame": np.broadcast_to(query, (latents, *query.shape)).astype(np.float64),
                    "skill_mean": mean[:latents],
                    "ridge": _held(ridge.reshape(-1, *query.shape), latents),
                    "nearest": _held(nearest.astype(np.float64), latents),
                }
            )
        return predicted

    def mean(self, latents: int) -> np.ndarray:
        """The mean video, float64 (T, C, h, w)."""
        steps = range(min(latents, self._longest))
        return _held(
            np.stack([np.mean([c[k] for c in self._with(k)], axis=0, dtype=np.float64) for k in steps]), latents
        )

    def mean_of_length(self, latents: int) -> np.ndarray:
        """The mean of the clips nearest in length."""
        gap = min(abs(len(clip) - latents) for clip in self._clips)
        same = [clip for clip in self._clips if abs(len(clip) - latents) == gap]
        return SkillBaselines(same, [clip[0] for clip in same]).mean(latents)

    @property
    def _longest(self) -> int:
        return max(map(len, self._clips))

    def _with(self, k: int) -> list[np.ndarray]:
        return [clip for clip in self._clips if len(clip) > k]

    def _ridge(self, k: int) -> Ridge:
        rows = [i for i, clip in enumerate(self._clips) if len(clip) > k]
        targets = np.stack([self._clips[i][k].ravel() for i in rows]).astype(np.float64)
        return Ridge(self._inputs[rows], targets)


def _held(video: np.ndarray, latents: int) -> np.ndarray:
    """As long as asked for: cut, or its last latent held."""
    return video[np.minimum(np.arange(latents), len(video) - 1)]
