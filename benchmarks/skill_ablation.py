"""The paper's central ablation: a world model of skills (Skill-WM) and one of whole episodes (Base-WM).

    python -m benchmarks.skill_ablation WORKSPACE [--steps 425 850 1700] [--seeds 0 1] [--samples 4]

WORKSPACE is the folder of a finished run: its demos, skills, tokenizer and latents are read, and nothing in it changes.
The settings are those of params.yaml in the current folder. Both models see the same frames of the same video-only
episodes, for the same number of optimiser steps and of clips per step; every number of steps is a separate training.
Both then imagine held-out episodes from their first frame: Skill-WM skill by skill, every skill in its true length and
from its own last frame; Base-WM all at once, in the true length of the episode, from the instruction. So Skill-WM is
told when skills end, and Base-WM is not. A clip of Base-WM is longer, so a step of it costs more.

Error and correlation are measured on the mean of the samples, in the latents of each model, cut at the same skill
boundaries, and compared with the mean training video of the same. PSNR is measured on one sample, against the recorded
frames, which are the same for both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import describe_machine
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params import Params, WorldModel, load_params
from world2act.core.tables import column_names
from world2act.data.array_store import ArrayStore
from world2act.data.latent_cache import Clip, LatentCache, open_latents
from world2act.data.latent_index import clip_keys, write_index
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.data.tiling import read_frames
from world2act.training.loop import train
from world2act.world_model.imagining.imagination import Imagination
from world2act.world_model.imagining.recorded_clips import clip_seed, episodes_of, imagine_episodes, make_imagination
from world2act.world_model.imagining.world_model import make_world_model
from world2act.world_model.judging.baselines import SkillBaselines
from world2act.world_model.judging.chains import correlation, error
from world2act.world_model.judging.image_metrics import picture_metrics
from world2act.world_model.learning.loss import DenoisingObjective
from world2act.world_model.learning.preparation import describe
from world2act.world_model.parts.clips import usable_clips
from world2act.world_model.parts.conditioning import LatentSpace
from world2act.world_model.parts.encoding import prompt_keys, store_clips, store_prompts
from world2act.world_model.parts.text import load_text_encoder
from world2act.world_model.parts.tokenizer import VideoTokenizer, load_tokenizer
from world2act.world_model.parts.transformer import build_transformer

SKILL, BASE = "Skill-WM", "Base-WM"


@dataclass(frozen=True)
class Data:
    """The data on which the models are compared. `chains`: the held-out episodes, as lists of skills."""

    episodes: EpisodeDataset
    tokenizer: VideoTokenizer
    caches: dict[str, LatentCache]
    chains: list[list[Clip]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        help="numbers of steps, one training per number; by default that of params.yaml",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params, artifacts = load_params(), arguments.workspace.resolve() / "artifacts"
    settings = params.world_model.training.model_copy(
        update={"deepspeed": str(Path(params.world_model.training.deepspeed).resolve())}
    )
    print(f"machine: {describe_machine('torch', 'diffusers')}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data = read(artifacts, params, Path(folder) / "whole")
        measured: dict[tuple[str, int], list[dict[str, float]]] = {}
        for steps in arguments.steps or [settings.steps]:
            for seed in arguments.seeds:
                for name, cache in data.caches.items():
                    section = params.world_model.model_copy(
                        update={
                            "max_latents": max(clip.latents for clip in cache.clips),
                            "training": settings.model_copy(update={"steps": steps, "checkpoint_every": steps}),
                        }
                    )
                    row = run(name, section, params, data, seed, arguments.samples)
                    measured.setdefault((name, steps), []).append(row)
                    print(f"{name}, {steps} steps, seed {seed}: {words(row)}", flush=True)
        print("\nmean over seeds (and range of the error)")
        for (name, steps), rows in measured.items():
            means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            errors = [row["error"] for row in rows]
            print(f"{name}, {steps} steps: {words(means)}; error {min(errors):.4f} to {max(errors):.4f}")


def read(artifacts: Path, params: Params, folder: Path) -> Data:
    """The cache of the workspace, and a new one of the same episodes without division into skills."""
    episodes, tokenizer = EpisodeDataset.open(artifacts / "demos/video_only"), load_tokenizer(artifacts / "tokenizer")
    skills = open_latents(artifacts / "latents")
    chains = episodes_of([clip for clip in skills.clips if clip.dataset == "video_only"])
    rows: list[dict[str, Any]] = []
    for chain in chains:
        first = {name: getattr(chain[0], name) for name in column_names(SkillRow)}
        end = {"end": chain[-1].end, "raw_end": chain[-1].end, "skill_count": 1, "prompt": chain[0].instruction}
        rows.append(first | end)
    datasets, encoder = (
        {"video_only": episodes},
        load_text_encoder(artifacts / "tokenizer", params.tokenizer.text_length),
    )
    prompts = prompt_keys(skills.meta["text"], [*sorted({row["prompt"] for row in rows}), ""])
    keys = clip_keys(datasets, rows, skills.meta["encoding"])
    store_clips(ArrayStore(folder / "clips"), tokenizer, datasets, dict(zip(keys, rows, strict=True)), 1)
    store_prompts(ArrayStore(folder / "prompts"), encoder, prompts)
    write_index(folder, rows, keys, prompts, skills.meta)
    heldout = [chain for chain in chains if chain[0].subset == "heldout"]
    return Data(episodes, tokenizer, {SKILL: skills, BASE: open_latents(folder)}, heldout)


def run(name: str, section: WorldModel, params: Params, data: Data, seed: int, samples: int) -> dict[str, float]:
    """Train one model and measure it."""
    cache = data.caches[name]
    clips = usable_clips(cache, "train", section.max_latents).clips
    config = describe(section, cache, clips)
    network = build_transformer(section, cache.latent_shape[0], cache.prompt_embeds.shape[2], seed)
    objective = DenoisingObjective(
        network,
        cache,
        clips,
        LatentSpace.of(config),
        conditioning_latents=section.conditioning_latents,
        text_dropout=section.text_dropout,
        high_sigma_share=section.high_sigma_share,
        seed=seed,
    )
    base = params.base.model_copy(update={"seed": seed, "ranks": 1})
    began = time.process_time()
    trained = train(objective, section.training, name="ablation", base=base, identity=f"{name}-{seed}")
    seconds = time.process_time() - began
    network.load_state_dict(trained.ema)
    imagination = make_imagination(make_world_model(network, config), cache, params.judge.sampler)
    return evaluate(name, imagination, clips, data, seed, samples) | {"cpu_s": seconds}


def evaluate(
    name: str, imagination: Imagination, train_clips: Sequence[Clip], data: Data, seed: int, samples: int
) -> dict[str, float]:
    """Means over held-out episodes: `error`, `error_<skill>`, `correlation`, the mean video's `error_mean`, `psnr`."""
    cache = data.caches[name]
    whole = {clip.episode_index: clip for clip in cache.clips if clip.dataset == "video_only"}
    chains = data.chains if name == SKILL else [[whole[chain[0].episode_index]] for chain in data.chains]
    drawn = [
        imagine_episodes(
            imagination,
            cache,
            data.tokenizer,
            chains,
            [[clip_seed(seed, clip, k) for clip in chain] for chain in chains],
            "frame",
        )
        for k in range(samples)
    ]
    means = {}
    for clip in {clip.prompt: clip for chain in chains for clip in chain}.values():
        same = [cache.latents(other) for other in train_clips if other.prompt == clip.prompt]
        means[clip.prompt] = SkillBaselines(same, [video[0] for video in same])
    rows: list[dict[str, float]] = []
    for i, (skills, chain) in enumerate(zip(data.chains, chains, strict=True)):
        truth = [np.array(cache.latents(clip), np.float64) for clip in chain]
        model = [np.mean([videos[i][k] for videos in drawn], axis=0) for k in range(len(chain))]
        mean = [means[clip.prompt].mean(clip.latents) for clip in chain]
        truth, model, mean = (cut(skills, videos) for videos in (truth, model, mean))
        row = {f"error_{k}": error(model[k], truth[k]) for k in range(len(skills))}
        lengths = [clip.latents - 1 for clip in skills]
        row["error"] = float(np.average(list(row.values()), weights=lengths))
        row["error_mean"] = float(np.average([error(m, t) for m, t in zip(mean, truth, strict=True)], weights=lengths))
        row["correlation"] = float(
            np.mean([correlation(a - m, t - m) for a, m, t in zip(model, mean, truth, strict=True)])
        )
        rows.append(row | {"psnr": psnr(data, skills, [np.array(video) for video in drawn[0][i]])})
    keys = sorted({key for row in rows for key in row})
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}


def cut(skills: Sequence[Clip], videos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A chain's videos unchanged, or the video of a whole episode cut at the boundaries of its skills."""
    if len(videos) == len(skills):
        return list(videos)
    edges = [clip.end // FRAMES_PER_LATENT for clip in skills]
    return [videos[0][start : end + 1] for start, end in zip([0, *edges], edges, strict=False)]


def psnr(data: Data, skills: Sequence[Clip], videos: Sequence[np.ndarray]) -> float:
    """PSNR of decoded frames, one per latent, against the recorded ones."""
    frames = [data.tokenizer.decode(torch.from_numpy(video[None]))[0, ::FRAMES_PER_LATENT][1:] for video in videos]
    which = range(FRAMES_PER_LATENT, skills[-1].end + 1, FRAMES_PER_LATENT)
    return picture_metrics(np.concatenate(frames), read_frames(data.episodes, skills[0].episode_index, which), None)[
        "psnr"
    ]


def words(row: dict[str, float]) -> str:
    by_skill = ", ".join(f"{row[key]:.4f}" for key in sorted(row) if key.startswith("error_") and key[6:].isdigit())
    return (
        f"error {row['error']:.4f} (by skill {by_skill}; mean video {row['error_mean']:.4f}), "
        f"correlation {row['correlation']:.2f}, PSNR {row['psnr']:.1f} dB, {row['cpu_s']:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
