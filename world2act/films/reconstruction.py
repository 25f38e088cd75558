"""Recorded clips above what the tokenizer makes of them: PNG strips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.tiling import read_frames
from world2act.films.strip import save_strip
from world2act.world_model.parts.tokenizer import VideoTokenizer

_SHOWN = 8


def show_reconstructions(
    directory: Path, tokenizer: VideoTokenizer, episodes: EpisodeDataset, clips: Sequence[dict[str, Any]]
) -> None:
    """Encode and decode the first clips (rows of skills.parquet) into strips in a new directory."""
    directory.mkdir()
    for i, clip in enumerate(clips[:_SHOWN]):
        frames = read_frames(episodes, clip["episode_index"], range(clip["start"], clip["end"] + 1))
        restored = tokenizer.decode(tokenizer.encode(frames[None]))[0]
        save_strip(directory / f"{i}.png", [frames, restored])
