"""Imagined rollouts as films: what the post-training policy learns from, for people to look at."""

from __future__ import annotations

from itertools import groupby, islice
from pathlib import Path

from world2act.core.latent_time import frames_of
from world2act.core.storage import file_stem, read_array, read_parquet
from world2act.films.chain import film_chain
from world2act.world_model.parts.guardrail import Guardrail
from world2act.world_model.parts.tokenizer import VideoTokenizer

_FILMED = 8
_COLUMNS = ["rollout", "task", "prompt", "offset", "latents", "conditioning_latents"]


def film_rollouts(directory: Path, rollouts: Path, tokenizer: VideoTokenizer, guardrail: Guardrail, fps: int) -> None:
    """Film the first rollouts of an artifact into a new directory.

    Args:
        rollouts: the folder of rollouts.parquet and latents.npy.
        fps: of the recordings that the world model was trained on.

    Raises:
        BadInput: a file is missing or damaged, or the guardrail refuses a prompt.
    """
    directory.mkdir()
    latents = read_array(rollouts / "latents.npy")
    rows = read_parquet(rollouts / "rollouts.parquet", _COLUMNS).to_pylist()
    for rollout, skills in islice(groupby(rows, key=lambda row: row["rollout"]), _FILMED):
        chain = list(skills)
        clips = [latents[row["offset"] : row["offset"] + row["latents"]] for row in chain]
        conditioned = frames_of(chain[-1]["conditioning_latents"])
        stem = directory / f"{rollout}-{file_stem(chain[0]['task'])}"
        film_chain(stem, tokenizer, guardrail, [row["prompt"] for row in chain], clips, None, fps, conditioned)
