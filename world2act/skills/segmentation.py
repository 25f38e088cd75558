"""From demonstrations to artifacts/skills: divide episodes into prompted clips, or discard them with a reason."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT, floor_to_latent
from world2act.core.storage import atomic_file
from world2act.core.tables import write_rows
from world2act.data.lerobot_v3 import EpisodeDataset, EpisodeRecord
from world2act.data.skill_table import DiscardRow, SkillRow
from world2act.skills.clips import Discard, Skill, cut_clips
from world2act.skills.events import Calibration, find_events
from world2act.skills.language import LanguageProvider, Request, Transcript

DATASETS = ("labelled", "video_only")
WHOLE = "undivided"
"""The name of the provider in skills.parquet if episodes are left undivided."""
PAPER = {"World2Act on LIBERO": 0.869, "World2Act on RoboCasa": 0.962}
"""Shares of videos with as many clips as prompts, from arXiv 2603.10422."""


@dataclass
class Segmentation:
    """Rows of skills.parquet, discards.parquet and transcripts.jsonl, and all episode lengths in frames."""

    skills: list[SkillRow]
    discards: list[DiscardRow]
    transcripts: list[Transcript]
    episode_lengths: list[int]


def segment(
    datasets: Mapping[str, EpisodeDataset], calibration: Calibration, provider: LanguageProvider
) -> Segmentation:
    """Divide every episode of every dataset into skills. Reads proprioception only, neither images nor actions.

    Raises:
        BadInput: an embodiment has no contact calibration, a dataset lacks a column that is needed, or the provider
            does not know a task.
    """
    episodes = [(name, dataset, i) for name, dataset in datasets.items() for i in range(len(dataset))]
    requests = [_request(dataset, i, calibration) for _, dataset, i in episodes]
    distinct = list(dict.fromkeys(requests))
    answers = dict(zip(distinct, provider.split(distinct), strict=True))
    result = Segmentation([], [], provider.transcripts, [request.frames for request in requests])
    for (name, dataset, i), request in zip(episodes, requests, strict=True):
        try:
            skills = cut_clips(request, answers[request])
        except Discard as reason:
            result.discards.append(_discard(name, dataset.episodes[i], str(reason)))
        else:
            result.skills += _rows(name, dataset.episodes[i], skills, provider.name)
    return result


def leave_whole(datasets: Mapping[str, EpisodeDataset]) -> Segmentation:
    """Make every episode one skill with its instruction as the prompt, to train the undivided world model (Base-WM).

    The last frames, which do not fill a latent, are dropped, as in a divided episode.
    """
    result = Segmentation([], [], [], [])
    for name, dataset in datasets.items():
        for episode in dataset.episodes:
            result.episode_lengths.append(episode.length)
            last = episode.length - 1
            if last < FRAMES_PER_LATENT:
                result.discards.append(_discard(name, episode, f"{episode.length} frames: shorter than one latent"))
            else:
                skill = Skill(0, floor_to_latent(last), last, episode.instruction)
                result.skills += _rows(name, episode, [skill], WHOLE)
    return result


def _rows(dataset: str, episode: EpisodeRecord, skills: Sequence[Skill], provider: str) -> list[SkillRow]:
    return [
        SkillRow(
            dataset=dataset,
            episode_index=episode.index,
            subset=episode.subset,
            task=episode.task,
            instruction=episode.instruction,
            skill_index=number,
            skill_count=len(skills),
            start=skill.start,
            end=skill.end,
            raw_end=skill.raw_end,
            prompt=skill.prompt,
            provider=provider,
        )
        for number, skill in enumerate(skills)
    ]


def _discard(dataset: str, episode: EpisodeRecord, reason: str) -> DiscardRow:
    return DiscardRow(dataset, episode.index, episode.subset, episode.task, reason)


def _request(dataset: EpisodeDataset, index: int, calibration: Calibration) -> Request:
    episode = dataset.episodes[index]
    return Request(episode.task, episode.instruction, episode.length, find_events(dataset, index, calibration))


def save(result: Segmentation, directory: Path) -> None:
    """Write skills.parquet, discards.parquet and transcripts.jsonl."""
    write_rows(directory / "skills.parquet", SkillRow, result.skills)
    write_rows(directory / "discards.parquet", DiscardRow, result.discards)
    with atomic_file(directory / "transcripts.jsonl") as path:
        path.write_text(
            "".join(json.dumps(line, sort_keys=True) + "\n" for line in result.transcripts), encoding="utf-8"
        )


def synchronised_by_task(result: Segmentation) -> dict[str, float]:
    """Task → the share of its episodes whose events match their prompts."""
    kept: dict[str, set[tuple[str, int]]] = {}
    lost: dict[str, int] = {}
    for row in result.skills:
        kept.setdefault(row.task, set()).add((row.dataset, row.episode_index))
    for discard in result.discards:
        lost[discard.task] = lost.get(discard.task, 0) + 1
    return {
        task: len(kept.get(task, ())) / (len(kept.get(task, ())) + lost.get(task, 0)) for task in sorted({*kept, *lost})
    }


def metrics(result: Segmentation) -> dict[str, float | Mapping[str, float]]:
    """Clips, discards, and the share of episodes whose events match their prompts, in total and by task.

    Raises:
        BadInput: every episode was discarded.
    """
    lengths = _clip_lengths(result)
    if not lengths:
        reasons = Counter(discard.reason for discard in result.discards).most_common(3)
        raise BadInput(
            "artifacts/skills",
            "",
            "every episode was discarded: " + "; ".join(f"{count} times: {reason}" for reason, count in reasons),
            "at least one episode divided into skills",
            "correct what the reasons name: skills.contact or skills.motion, the schema or prompt file, or the model "
            "(its answers are in runs/skills/answers.jsonl)",
        )
    return {
        "clips": len(lengths),
        "discarded_episodes": len(result.discards),
        "synchronised": 1 - len(result.discards) / len(result.episode_lengths),
        "synchronised_by_task": synchronised_by_task(result),
        "mean_clip_frames": float(np.mean(lengths)),
        "median_clip_frames": float(np.median(lengths)),
        "longest_clip_frames": max(lengths),
    }


def save_length_plot(result: Segmentation, path: Path, bin_frames: int = 8) -> None:
    """Write the distribution of lengths before (episodes) and after (clips) as a CSV plot, in shares per bin."""
    groups = {"episodes": result.episode_lengths, "skill clips": _clip_lengths(result)}
    top = max(map(max, groups.values())) + bin_frames
    edges = np.arange(0, top + bin_frames, bin_frames)
    shares = [np.histogram(lengths, edges)[0] / len(lengths) for lengths in groups.values()]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["frames", *groups])
        for edge, *row in zip(edges, *shares, strict=False):
            writer.writerow([int(edge), *(round(float(share), 6) for share in row)])


def save_synchronised_plot(rates: Mapping[str, float], path: Path) -> None:
    """Write the share of synchronised episodes by task, next to the paper's, as a CSV plot."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["what", "synchronised"])
        writer.writerows([what, round(rate, 6)] for what, rate in [*rates.items(), *PAPER.items()])


def _clip_lengths(result: Segmentation) -> Sequence[int]:
    return [row.end - row.start + 1 for row in result.skills]
