"""Demonstrations in, artifacts/skills out: contact events, prompts, clips, and what was discarded and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from world2act.data.latent_cache import SKILLS_SCHEMA
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.errors import BadInput
from world2act.params import Contact
from world2act.skills.alignment import Discard, align
from world2act.skills.contact import contact_events
from world2act.skills.language import LanguageProvider, Request
from world2act.storage import atomic_file, write_parquet

DATASETS = ("labelled", "video_only")
GRIPPER = "gripper_opening_m"
STATE = "observation.state"

DISCARDS = pa.schema(
    [*(SKILLS_SCHEMA.field(name) for name in ("dataset", "episode_index", "subset", "task")), ("reason", pa.string())]
)


@dataclass
class Segmentation:
    """Rows of skills.parquet, discards.parquet and transcripts.jsonl, and episode lengths."""

    skills: list[dict[str, Any]]
    discards: list[dict[str, Any]]
    transcripts: list[dict[str, Any]]
    episode_lengths: list[int]


def segment(
    datasets: Mapping[str, EpisodeDataset], contacts: Mapping[str, Contact], provider: LanguageProvider
) -> Segmentation:
    """Divide every episode of every dataset into skills. Reads proprioception only: no frame, no action.

    Raises:
        BadInput: an embodiment without a contact calibration or without a gripper opening, or a task that the
            provider does not know.
    """
    episodes = [(name, dataset, i) for name, dataset in datasets.items() for i in range(len(dataset))]
    requests = [_request(dataset, i, contacts) for _, dataset, i in episodes]
    distinct = list(dict.fromkeys(requests))
    answers = dict(zip(distinct, provider.split(distinct), strict=True))
    result = Segmentation([], [], provider.transcripts, [request.frames for request in requests])
    for (name, dataset, i), request in zip(episodes, requests, strict=True):
        episode = {"dataset": name, "episode_index": i, "subset": dataset.episodes[i].subset, "task": request.task}
        try:
            skills = align(request, answers[request])
        except Discard as reason:
            result.discards.append(episode | {"reason": str(reason)})
            continue
        common = episode | {"instruction": request.instruction, "skill_count": len(skills), "provider": provider.name}
        result.skills += [common | {"skill_index": k} | asdict(skill) for k, skill in enumerate(skills)]
    return result


def _request(dataset: EpisodeDataset, index: int, contacts: Mapping[str, Contact]) -> Request:
    embodiment = dataset.info["robot_type"]
    if embodiment not in contacts:
        raise BadInput(
            "params.yaml",
            "skills.contact",
            sorted(contacts),
            f"an entry for {embodiment}",
            "calibrate the gripper and add it",
        )
    names = dataset.features[STATE]["names"]
    if GRIPPER not in names:
        raise BadInput(
            dataset.path / "meta/info.json",
            f"features.{STATE}.names",
            names,
            f"{GRIPPER} among them",
            "name the column",
        )
    opening_m = dataset.columns(index, [STATE])[STATE][:, names.index(GRIPPER)]
    episode = dataset.episodes[index]
    return Request(
        episode.task, episode.instruction, episode.length, tuple(contact_events(opening_m, contacts[embodiment]))
    )


def save(result: Segmentation, directory: Path) -> None:
    """Write skills.parquet, discards.parquet and transcripts.jsonl."""
    write_parquet(directory / "skills.parquet", result.skills, SKILLS_SCHEMA)
    write_parquet(directory / "discards.parquet", result.discards, DISCARDS)
    with atomic_file(directory / "transcripts.jsonl") as path:
        path.write_text(
            "".join(json.dumps(line, sort_keys=True) + "\n" for line in result.transcripts), encoding="utf-8"
        )


def metrics(result: Segmentation) -> dict[str, Any]:
    """Clips, discards, and the share of episodes whose events match their prompts, in all and by task."""
    kept: dict[str, set[tuple[str, int]]] = {}
    lost: dict[str, int] = {}
    for row in result.skills:
        kept.setdefault(row["task"], set()).add((row["dataset"], row["episode_index"]))
    for row in result.discards:
        lost[row["task"]] = lost.get(row["task"], 0) + 1
    rates = {
        task: len(kept.get(task, ())) / (len(kept.get(task, ())) + lost.get(task, 0)) for task in sorted({*kept, *lost})
    }
    lengths = _clip_lengths(result)
    if not lengths:
        reasons = sorted({row["reason"] for row in result.discards})[:3]
        raise BadInput(
            "artifacts/skills",
            "discards.parquet",
            f"every episode was discarded: {reasons}",
            "skills",
            "correct the contact calibration or the schema",
        )
    return {
        "clips": len(lengths),
        "discarded_episodes": len(result.discards),
        "synchronised": 1 - len(result.discards) / len(result.episode_lengths),
        "synchronised_by_task": rates,
        "mean_clip_frames": float(np.mean(lengths)),
        "median_clip_frames": float(np.median(lengths)),
        "longest_clip_frames": max(lengths),
    }


def save_length_plot(result: Segmentation, path: Path, bin_frames: int = 8) -> None:
    """Write the distribution of lengths before (episodes) and after (clips) as a CSV plot: shares by bin."""
    groups = {"episodes": result.episode_lengths, "skill clips": _clip_lengths(result)}
    top = max(map(max, groups.values())) + bin_frames
    edges = np.arange(0, top + bin_frames, bin_frames)
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["frames", "what", "share"])
        for what, lengths in groups.items():
            counts, _ = np.histogram(lengths, edges)
            writer.writerows(
                [int(edge), what, round(float(count / len(lengths)), 6)]
                for edge, count in zip(edges, counts, strict=False)
            )


def _clip_lengths(result: Segmentation) -> Sequence[int]:
    return [row["end"] - row["start"] + 1 for row in result.skills]
