"""The gate of artifacts/tokenizer: measures the VAE, the text encoder and the reconstructions of held-out clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params import Params
from world2act.core.params.gates import GateTokenizer
from world2act.core.storage import read_json, read_parquet
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates.engine.measurements import weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import at_least, between, rebuild

_REBUILD = rebuild("tokenizer")
_TRAIN = "raise tokenizer.training.steps or tokenizer.base_dim"
_SURVIVE = "Held-out clips survive encoding and decoding (median peak signal-to-noise ratio, decibels)."
_KEEP_MOTION = (
    "Reconstructions keep what moves: they are closer to the clip than its first frame held still (median gain, "
    "decibels)."
)
_NONE_LOST = "Every single held-out clip survives encoding and decoding (peak signal-to-noise ratio, decibels)."
_MOVE = "The clips move, so that the ratio means something (standard deviation of a pixel over time, of 255)."
_DEMOS_STILL = "nothing moves in the demonstrations: look at reports/gates/demos.json"
_NO_DEAD_CHANNEL = "No latent channel is dead (standard deviation of the raw latents over training frames)."


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/tokenizer. Raises `BadInput` when a file is missing or damaged."""
    root = artifacts / "tokenizer"
    tokenizer_files = [root / "text_tokenizer" / name for name in ("tokenizer.json", "tokenizer_config.json")]
    vocabulary = read_json(tokenizer_files[0])["model"]["vocab"]
    read_json(tokenizer_files[1])
    channel_checks = [
        at_least("latent_std", 1e-3, _NO_DEAD_CHANNEL, remedy=_TRAIN),
        between("latent_mean", -1e3, 1e3, "The means of the raw latents are moderate numbers.", remedy=_TRAIN),
    ]
    vocabulary_checks = [
        at_least("size", 8, "The text tokenizer knows enough words to tell prompts apart.", remedy=_REBUILD)
    ]
    return [
        _clips_table(artifacts, params.gates.tokenizer),
        Table("channels", pd.DataFrame(_channel_rows(root)), ("channel",), channel_checks),
        weights_table(weight_rows(root, ["vae/*.safetensors", "text_encoder/*.safetensors"]), _REBUILD),
        Table("vocabulary", pd.DataFrame({"size": [len(vocabulary)]}), ("size",), vocabulary_checks),
    ]


def _clips_table(artifacts: Path, limits: GateTokenizer) -> Table:
    clips = read_parquet(
        artifacts / "tokenizer/reconstruction.parquet", ["episode_index", "task", "skill_index", "psnr_db", "frame_std"]
    ).to_pandas()
    return Table(
        "clips",
        clips.assign(over_still_db=clips["psnr_db"] - _still_psnr_db(artifacts, clips)),
        ("episode_index", "skill_index", "task"),
        [
            at_least("psnr_db", limits.psnr_db, _SURVIVE, remedy=_TRAIN, of="median"),
            at_least("over_still_db", limits.over_still_db, _KEEP_MOTION, remedy=_TRAIN, of="median"),
            at_least("psnr_db", limits.lowest_psnr_db, _NONE_LOST, remedy=_TRAIN),
            at_least("frame_std", 0.5, _MOVE, remedy=_DEMOS_STILL),
        ],
    )


def _still_psnr_db(artifacts: Path, clips: pd.DataFrame) -> list[float]:
    """The peak signal-to-noise ratio of each clip's first frame against the last frame of every latent."""
    dataset = EpisodeDataset.open(artifacts / "demos/video_only")
    skills = read_parquet(
        artifacts / "skills/skills.parquet", ["dataset", "episode_index", "skill_index", "start", "end"]
    )
    bounds = {
        (row["episode_index"], row["skill_index"]): (row["start"], row["end"])
        for row in skills.to_pylist()
        if row["dataset"] == "video_only"
    }
    ratios = []
    for key in zip(clips["episode_index"], clips["skill_index"], strict=True):
        if key not in bounds:
            raise BadInput(
                artifacts / "tokenizer/reconstruction.parquet",
                f"episode {key[0]}, skill {key[1]}",
                "no such clip",
                "a clip of artifacts/skills",
                _REBUILD,
            )
        start, end = bounds[key]
        frames = np.stack(
            [dataset.frames(key[0], each, range(start, end + 1, FRAMES_PER_LATENT)) for each in dataset.cameras], 1
        )
        frames = frames.astype(np.float64)
        ratios.append(float(10 * np.log10(255**2 / max(np.square(frames - frames[0]).mean(), 1e-10))))
    return ratios


def _channel_rows(root: Path) -> list[dict[str, Any]]:
    config = read_json(root / "vae/config.json")
    pairs = zip(config["latents_mean"], config["latents_std"], strict=True)
    return [{"channel": i, "latent_mean": float(mean), "latent_std": float(std)} for i, (mean, std) in enumerate(pairs)]
