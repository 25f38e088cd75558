"""The gate of artifacts/tokenizer: measures the VAE, the text encoder and the reconstructions of held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.latent_time import FRAMES_PER_LATENT
from world2act.core.params import Params
from world2act.core.params.gates import GateTokenizer
from world2act.core.storage import read_json
from world2act.core.tables import read_rows
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.gates.engine.measurements import weight_rows
from world2act.gates.engine.tables import Table, weights_table
from world2act.gates.engine.vocabulary import at_least, between, rebuild
from world2act.world_model.learning.rows import ReconstructionRow

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


@dataclass(frozen=True)
class _Clip(ReconstructionRow):
    over_still_db: float


@dataclass(frozen=True)
class _Channel:
    channel: int
    latent_mean: float
    latent_std: float


@dataclass(frozen=True)
class _Vocabulary:
    size: int


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
        Table.of("channels", _Channel, _channel_rows(root), ("channel",), channel_checks),
        weights_table(weight_rows(root, ["vae/*.safetensors", "text_encoder/*.safetensors"]), _REBUILD),
        Table.of("vocabulary", _Vocabulary, [_Vocabulary(len(vocabulary))], ("size",), vocabulary_checks),
    ]


def _clips_table(artifacts: Path, limits: GateTokenizer) -> Table:
    clips = read_rows(artifacts / "tokenizer/reconstruction.parquet", ReconstructionRow)
    still = _still_psnr_db(artifacts, clips)
    rows = [_Clip(**vars(clip), over_still_db=clip.psnr_db - held) for clip, held in zip(clips, still, strict=True)]
    checks = [
        at_least("psnr_db", limits.psnr_db, _SURVIVE, remedy=_TRAIN, of="median"),
        at_least("over_still_db", limits.over_still_db, _KEEP_MOTION, remedy=_TRAIN, of="median"),
        at_least("psnr_db", limits.lowest_psnr_db, _NONE_LOST, remedy=_TRAIN),
        at_least("frame_std", 0.5, _MOVE, remedy=_DEMOS_STILL),
    ]
    return Table.of("clips", _Clip, rows, ("episode_index", "skill_index", "task"), checks)


def _still_psnr_db(artifacts: Path, clips: Sequence[ReconstructionRow]) -> list[float]:
    """For each clip, the peak signal-to-noise ratio of repeating its first frame, measured at one frame per latent."""
    dataset = EpisodeDataset.open(artifacts / "demos/video_only")
    skills = read_rows(artifacts / "skills/skills.parquet", SkillRow)
    bounds = {
        (skill.episode_index, skill.skill_index): (skill.start, skill.end)
        for skill in skills
        if skill.dataset == "video_only"
    }
    ratios = []
    for clip in clips:
        if (clip.episode_index, clip.skill_index) not in bounds:
            path, key = artifacts / "tokenizer/reconstruction.parquet", f"episode {clip.episode_index}"
            found = f"skill {clip.skill_index}, which is not in artifacts/skills"
            raise BadInput(path, key, found, "a clip of artifacts/skills", _REBUILD)
        start, end = bounds[clip.episode_index, clip.skill_index]
        shown = range(start, end + 1, FRAMES_PER_LATENT)
        views = [dataset.frames(clip.episode_index, camera, shown) for camera in dataset.cameras]
        frames = np.stack(views, 1).astype(np.float64)
        ratios.append(float(10 * np.log10(255**2 / max(np.square(frames - frames[0]).mean(), 1e-10))))
    return ratios


def _channel_rows(root: Path) -> list[_Channel]:
    config = read_json(root / "vae/config.json")
    pairs = zip(config["latents_mean"], config["latents_std"], strict=True)
    return [_Channel(i, float(mean), float(std)) for i, (mean, std) in enumerate(pairs)]
