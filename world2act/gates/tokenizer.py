"""The gate of artifacts/tokenizer: VAE, text encoder and reconstructions in, tables with expectations out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd

from world2act.gates.engine import Table, weights_table, why
from world2act.gates.probes import weight_rows
from world2act.params import Params
from world2act.storage import read_json, read_parquet

_AGAIN = "delete artifacts/tokenizer and run `dvc repro tokenizer`"
_TRAIN = "raise tokenizer.training.steps or tokenizer.base_dim; look at artifacts/tokenizer/preview"


def tables(artifacts: Path, params: Params) -> list[Table]:
    """Measure artifacts/tokenizer. Raises `BadInput` when a file is missing or damaged."""
    limits, root = params.gates.tokenizer, artifacts / "tokenizer"
    clips = read_parquet(root / "reconstruction.parquet", ["episode_index", "task", "skill_index", "psnr_db", "frame_std"])
    tokenizer_files = [root / "text_tokenizer" / name for name in ("tokenizer.json", "tokenizer_config.json")]
    vocabulary = read_json(tokenizer_files[0])["model"]["vocab"]
    read_json(tokenizer_files[1])
    return [
        Table("clips", clips.to_pandas(), ("episode_index", "skill_index", "task"), [
            gxe.ExpectColumnMedianToBeBetween(column="psnr_db", min_value=limits.psnr_db, **why(
                "Held-out clips survive encoding and decoding: their median peak signal-to-noise ratio, decibels.", _TRAIN)),
            gxe.ExpectColumnValuesToBeBetween(column="psnr_db", min_value=limits.lowest_psnr_db, **why(
                "No single held-out clip is lost (peak signal-to-noise ratio, decibels).", _TRAIN)),
            gxe.ExpectColumnValuesToBeBetween(column="frame_std", min_value=0.5, **why(
                "The clips move, so that their ratio means something (standard deviation of a pixel over time, of 255).",
                "the demonstrations stand still: look at reports/gates/demos.json")),
        ]),
        Table("channels", pd.DataFrame(_channel_rows(root)), ("channel",), [
            gxe.ExpectColumnValuesToBeBetween(column="latent_std", min_value=1e-3, **why(
                "No latent channel is dead (standard deviation of the raw latents over training frames).", _TRAIN)),
            gxe.ExpectColumnValuesToBeBetween(column="latent_mean", min_value=-1e3, max_value=1e3, **why(
                "The raw latents' means are moderate numbers.", _TRAIN)),
        ]),
        weights_table(weight_rows(root, ["vae/*.safetensors", "text_encoder/*.safetensors"]), _AGAIN),
        Table("vocabulary", pd.DataFrame({"size": [len(vocabulary)]}), ("size",), [
            gxe.ExpectColumnValuesToBeBetween(column="size", min_value=8, **why("The text tokenizer has words to tell prompts apart.", _AGAIN)),
        ]),
    ]


def _channel_rows(root: Path) -> list[dict[str, Any]]:
    config = read_json(root / "vae/config.json")
    pairs = zip(config["latents_mean"], config["latents_std"], strict=True)
    return [{"channel": i, "latent_mean": float(mean), "latent_std": float(std)} for i, (mean, std) in enumerate(pairs)]
