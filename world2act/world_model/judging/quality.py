"""How good imagination is on held-out clips: heldout.parquet, chains.parquet, positions.parquet and metrics.

The baselines are in `world2act.world_model.judging.baselines`. The control imagines from the
first frame of another clip of the same skill: what it still gets right is the skill and the clip's length, which
imagination is given, not the scene; the mean of the training clips nearest in length shows how much the length alone
says. Errors are mean squared errors of normalised latents, conditioning latents left out, of the mean of all samples
unless a column says otherwise; a correlation is that of imagined with true deviations from the skill's mean video.
Pictures compare one sample with the recorded frames, one frame per latent; `reconstruction` is what the
tokenizer alone loses, the ceiling of everything that it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params import Judge
from world2act.core.tables import column_names
from world2act.data.latent_cache import Clip, LatentCache
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import read_frames
from world2act.world_model.imagining.imagination import Imagination
from world2act.world_model.imagining.recorded_clips import clip_seed, episodes_of, imagine_clips
from world2act.world_model.judging.baselines import BASELINES, SkillBaselines
from world2act.world_model.judging.chains import correlation, error, measure_chains
from world2act.world_model.judging.drift import summarise_chains
from world2act.world_model.judging.image_metrics import picture_metrics
from world2act.world_model.judging.lpips import Lpips
from world2act.world_model.judging.object_position import (
    PositionProbe,
    fit_probes,
    positions,
    scene,
    summarise_positions,
)
from world2act.world_model.judging.rows import HeldoutRow
from world2act.world_model.parts.tokenizer import VideoTokenizer

ERRORS = ("model", "one_sample", *BASELINES, "length_mean", "shuffled")
PICTURES = ("reconstruction", "model", *BASELINES)
PICTURE_METRICS = ("psnr", "ssim", "lpips")
_NUMBERS = tuple(column_names(HeldoutRow)[5:])


@dataclass(frozen=True)
class Subject:
    """What is measured, and against what.

    Attributes:
        datasets: "labelled" and "video_only".
        train, heldout: usable clips of video_only.
    """

    imagination: Imagination
    tokenizer: VideoTokenizer
    cache: LatentCache
    datasets: Mapping[str, EpisodeDataset]
    train: Sequence[Clip]
    heldout: Sequence[Clip]
    settings: Judge
    seed: int
    lpips: Lpips | None


@dataclass(frozen=True)
class Quality:
    """Rows of heldout.parquet, chains.parquet and positions.parquet."""

    clips: list[dict[str, Any]]
    chains: list[dict[str, Any]]
    positions: list[dict[str, Any]]


def measure(subject: Subject, *, rank: int = 0, ranks: int = 1) -> Quality:
    """Imagine every held-out clip from its own first frame, and compare with what happened.

    The ranks share the episodes; every rank must call it, and gets all rows. Where a skill has a single held-out clip
    the control has no other first frame, and its columns are None; so are those of pictures beyond the first
    `pictures` clips, skills in turn. As many episodes are imagined as chains.
    """
    from world2act.training.ranks import gather_rows

    rank_clips = [clip for clip in subject.heldout if clip.episode_index % ranks == rank]
    shown = in_turn(subject.heldout, subject.settings.pictures)
    chained = {clip.episode_index for clip in in_turn([c[0] for c in episodes_of(subject.heldout)], len(shown))}
    probes = fit_probes(subject.cache, subject.datasets, sorted({clip.task for clip in rank_clips}))
    clips, places = _measure_clips(subject, rank_clips, set(shown), probes)
    chains = [chain for chain in episodes_of(rank_clips) if chain[0].episode_index in chained]
    rows = measure_chains(subject.imagination, subject.cache, subject.tokenizer, subject.train, chains, subject.seed)
    return Quality(*(sorted(gather_rows(part), key=_place) for part in (clips, rows, places)))


def in_turn(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The first `count` clips, those of different skills in turn."""
    seen: dict[str, int] = {}
    turns = []
    for clip in clips:
        seen[clip.prompt] = seen.get(clip.prompt, 0) + 1
        turns.append((seen[clip.prompt], clip.prompt))
    order = sorted(range(len(clips)), key=lambda i: turns[i])
    return [clips[i] for i in sorted(order[:count])]


def summarise(quality: Quality) -> dict[str, Any]:
    """Means over clips of every column of numbers, clips without a value left out; drift, jumps, object positions."""
    values = {name: [row[name] for row in quality.clips if row[name] is not None] for name in _NUMBERS}
    means = {name: float(np.mean(column)) for name, column in values.items() if column}
    read = {
        f"position_{when}_{method}": figures
        for method, whens in summarise_positions(quality.positions).items()
        for when, figures in whens.items()
    }
    return means | summarise_chains(quality.chains) | read


def _measure_clips(
    subject: Subject, rank_clips: Sequence[Clip], shown: set[Clip], probes: Mapping[str, PositionProbe]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of heldout.parquet and of positions.parquet."""
    cache, others = subject.cache, _first_frames_of_others(subject.heldout)
    drawn = [_draw(subject, rank_clips, rank_clips, 2 * k) for k in range(subject.settings.samples)]
    shuffled = [
        _draw(subject, rank_clips, [others[clip] for clip in rank_clips], 2 * k + 1)
        for k in range(subject.settings.samples)
    ]
    rows, places = [], []
    for prompt in sorted({clip.prompt for clip in rank_clips}):
        same = [i for i, clip in enumerate(rank_clips) if clip.prompt == prompt]
        known = [cache.latents(clip) for clip in subject.train if clip.prompt == prompt]
        baselines = SkillBaselines(known, [clip[0] for clip in known])
        predicted = baselines.predict(
            [cache.latents(rank_clips[i])[0] for i in same], [rank_clips[i].latents for i in same]
        )
        for i, videos in zip(same, predicted, strict=True):
            clip, truth = rank_clips[i], np.array(cache.latents(rank_clips[i]), np.float64)
            model, control = (np.mean([videos[i] for videos in draws], axis=0) for draws in (drawn, shuffled))
            videos |= {"model": model, "shuffled": control, "one_sample": drawn[0][i]}
            videos["length_mean"] = baselines.mean_of_length(clip.latents)
            row = _compare(clip, truth, videos, alone=others[clip] is clip)
            if clip in shown:
                row |= _pictures(subject, clip, {"reconstruction": truth} | videos | {"model": drawn[0][i]})
            rows.append(row)
            if clip.task in probes:
                recorded = scene(subject.datasets["video_only"], clip.episode_index)
                read = {name: videos[name] for name in ("model", "shuffled", *BASELINES)} | {"recorded": truth}
                if others[clip] is clip:
                    del read["shuffled"]
                places += [_key(clip) | place for place in positions(probes[clip.task], clip, recorded, read)]
    return rows, places


def _compare(clip: Clip, truth: np.ndarray, videos: Mapping[str, np.ndarray], *, alone: bool) -> dict[str, Any]:
    row = _key(clip) | {"latents": clip.latents} | dict.fromkeys(_NUMBERS)
    row |= {f"error_{name}": error(videos[name], truth) for name in ERRORS}
    mean = videos["skill_mean"]
    for name in ("model", "ridge", "nearest", "shuffled"):
        column = "correlation" if name == "model" else f"correlation_{name}"
        row[column] = correlation(videos[name] - mean, truth - mean)
    return row | ({"error_shuffled": None, "correlation_shuffled": None} if alone else {})


def _pictures(subject: Subject, clip: Clip, videos: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The pictures of the last frame of every latent but the conditioning one; a first frame is repeated as it is."""
    which = range(clip.start, clip.end + 1, FRAMES_PER_LATENT)
    real = read_frames(subject.datasets["video_only"], clip.episode_index, which)
    decoded = [name for name in PICTURES if name != "first_frame"]
    latents = torch.from_numpy(np.stack([videos[name] for name in decoded]).astype(np.float32))
    frames = dict(zip(decoded, subject.tokenizer.decode(latents)[:, ::FRAMES_PER_LATENT], strict=True))
    frames["first_frame"] = np.broadcast_to(real[0], real.shape)
    return {
        f"{metric}_{name}": value
        for name, video in frames.items()
        for metric, value in picture_metrics(video[1:], real[1:], subject.lpips).items()
    }


def _draw(subject: Subject, clips: Sequence[Clip], starts: Sequence[Clip], draw: int) -> list[np.ndarray]:
    seeds = [clip_seed(subject.seed, clip, draw) for clip in clips]
    return imagine_clips(subject.imagination, subject.cache, clips, starts, seeds)


def _first_frames_of_others(clips: Sequence[Clip]) -> dict[Clip, Clip]:
    """For each clip the next one of the same skill, in a ring."""
    following: dict[Clip, Clip] = {}
    for prompt in {clip.prompt for clip in clips}:
        same = [clip for clip in clips if clip.prompt == prompt]
        following |= dict(zip(same, same[1:] + same[:1], strict=True))
    return following


def _key(clip: Clip) -> dict[str, Any]:
    return {key: getattr(clip, key) for key in ("episode_index", "task", "skill_index", "prompt")}


def _place(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["episode_index"], row["skill_index"]
