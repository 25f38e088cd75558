"""The gate of artifacts/tokenizer: VAE, text encoder, reconstructions and frames in, tables with expectations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from world2act.core.errors import BadInput
from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates.engine import Table, weights_table, why
from world2act.gates.probes import weight_rows

_AGAIN = "delete artifacts/tokenizer and run `dvc repro tokenizer`"
_TRAIN = "raise tokenizer.training.steps or tokenizer.base_dim"


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/tokenizer. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.tokenizer, artifacts / "tokenizer"
    clips = read_parquet(
        root / "reconstruction.parquet", ["episode_index", "task", "skill_index", "psnr_db", "frame_std"]
    ).to_pandas()
    tokenizer_files = [root / "text_tokenizer" / name for name in ("tokenizer.json", "tokenizer_config.json")]
    vocabulary = read_json(tokenizer_files[0])["model"]["vocab"]
    read_json(tokenizer_files[1])
    return [
        Table(
            "clips",
            clips.assign(over_still_db=clips["psnr_db"] - _still_psnr_db(artifacts, clips)),
            ("episode_index", "skill_index", "task"),
            [
                gxe.ExpectColumnMedianToBeBetween(
                    column="psnr_db",
                    min_value=limits.psnr_db,
                    **why(
                        "Held-out clips survive encoding and decoding: their median peak signal-to-noise ratio, "
                        "decibels.",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnMedianToBeBetween(
                    column="over_still_db",
                    min_value=limits.over_still_db,
                    **why(
                        "Reconstructions keep what moves: they beat the clip's first frame held still (median gain, "
                        "decibels).",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="psnr_db",
                    min_value=limits.lowest_psnr_db,
                    **why("No single held-out clip is lost (peak signal-to-noise ratio, decibels).", _TRAIN),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="frame_std",
                    min_value=0.5,
                    **why(
                        "The clips move, so that their ratio means something (standard deviation of a pixel over "
                        "time, of 255).",
                        "the demonstrations stand still: look at reports/gates/demos.json",
                    ),
                ),
            ],
        ),
        Table(
            "channels",
            pd.DataFrame(_channel_rows(root)),
            ("channel",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="latent_std",
                    min_value=1e-3,
                    **why(
                        "No latent channel is dead (standard deviation of the raw latents over training frames).",
                        _TRAIN,
                    ),
                ),
                gxe.ExpectColumnValuesToBeBetween(
                    column="latent_mean",
                    min_value=-1e3,
                    max_value=1e3,
                    **why("The raw latents' means are moderate numbers.", _TRAIN),
                ),
            ],
        ),
        weights_table(weight_rows(root, ["vae/*.safetensors", "text_encoder/*.safetensors"]), _AGAIN),
        Table(
            "vocabulary",
            pd.DataFrame({"size": [len(vocabulary)]}),
            ("size",),
            [
                gxe.ExpectColumnValuesToBeBetween(
                    column="size", min_value=8, **why("The text tokenizer has words to tell prompts apart.", _AGAIN)
                ),
            ],
        ),
    ]


def _still_psnr_db(artifacts: Path, clips: pd.DataFrame) -> list[float]:
    """For each clip, the peak signal-to-noise ratio of its first frame, repeated, against every fourth frame of it."""
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
                _AGAIN,
            )
        start, end = bounds[key]
        frames = np.stack([dataset.frames(key[0], each, range(start, end + 1, 4)) for each in dataset.cameras], 1)
        frames = frames.astype(np.float64)
        ratios.append(float(10 * np.log10(255**2 / max(np.square(frames - frames[0]).mean(), 1e-10))))
    return ratios


def _channel_rows(root: Path) -> list[dict[str, Any]]:
    config = read_json(root / "vae/config.json")
    pairs = zip(config["latents_mean"], config["latents_std"], strict=True)
    return [{"channel": i, "latent_mean": float(mean), "latent_std": float(std)} for i, (mean, std) in enumerate(pairs)]
