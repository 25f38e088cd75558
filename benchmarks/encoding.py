"""What the latent cache saves: the stage over all episodes, after ten new ones, and with nothing new.

    python -m benchmarks.encoding WORKSPACE [--episodes 60] [--new 10] [--repeats 3]

WORKSPACE is a folder where the pipeline has run; the benchmark uses its first `--episodes` video-only episodes. Every
side runs the stage `latents` in this process, from the frames to the index of the artifact, including keys, checks and
links. All sides end with the same artifact, whose bytes are compared. The VAE is also measured alone, in clips per
second: one clip at a time, in batches of the size in params.yaml, and in batches four times as large.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import by_turns, describe_machine, ratio, seconds, spread
from stages import latents
from world2act.core.params import Params, load_params
from world2act.core.storage import read_parquet, sha256, write_parquet
from world2act.core.tables import schema_of
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.skill_table import SkillRow
from world2act.data.tiling import read_frames
from world2act.world_model.parts.encoding import batches_of_clips, encode
from world2act.world_model.parts.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
SKILLS, CACHE = Path("artifacts/skills/skills.parquet"), Path("artifacts/latents")
ALL, NEW, NONE = "all episodes", "new episodes", "nothing new"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--new", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params, workspace = load_params(ROOT / "params.yaml"), arguments.workspace.absolute()
    print(f"machine: {describe_machine('torch', 'diffusers')}, one thread")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("demos", "skills", "tokenizer"):
            shutil.copytree(workspace / "artifacts" / name, Path("artifacts") / name)
        rows = [row for row in read_parquet(SKILLS).to_pylist() if row["dataset"] == "video_only"]
        first = sorted({row["episode_index"] for row in rows})[: arguments.episodes]
        rows = [row for row in rows if row["episode_index"] in first]
        old = [row for row in rows if row["episode_index"] in first[: -arguments.new]]
        vae(params, rows[:64], arguments.repeats)
        stage(params, rows, old, arguments.repeats)


def stage(params: Params, rows: Sequence[dict], old: Sequence[dict], repeats: int) -> None:
    """Print the seconds of the stage on every side, and how much faster than encoding everything the others are."""
    digests: set[str] = set()

    def run(clips: Sequence[dict]) -> float:
        write_parquet(SKILLS, list(clips), schema_of(SkillRow))
        return seconds(lambda: latents.main(params))

    def side(before: Sequence[dict]) -> float:
        shutil.rmtree(CACHE, ignore_errors=True)
        if before:
            run(before)
        wall_s = run(rows)
        digests.add(sha256(CACHE))
        return wall_s

    figures = by_turns({ALL: lambda: side([]), NEW: lambda: side(old), NONE: lambda: side(rows)}, repeats)
    print(f"stage, {len(rows)} clips, of which {len(rows) - len(old)} of new episodes")
    for name, values in figures.items():
        print(f"stage, {name}, s: {spread(values)}")
    for name in (NEW, NONE):
        print(f"stage, {name}: {ratio(figures[ALL], figures[name])} times as fast as all episodes")
    print(f"stage: {'the same bytes on every side' if len(digests) == 1 else f'BYTES DIFFER: {digests}'}")


def vae(params: Params, rows: Sequence[dict], repeats: int) -> None:
    """Print clips per second of the VAE alone, by the size of the batch."""
    dataset, tokenizer = EpisodeDataset.open("artifacts/demos/video_only"), load_tokenizer("artifacts/tokenizer")
    clips = {str(i): row for i, row in enumerate(rows)}
    frames = {
        key: read_frames(dataset, row["episode_index"], range(row["start"], row["end"] + 1))
        for key, row in clips.items()
    }

    def rate(size: int) -> float:
        def work() -> None:
            for keys in batches_of_clips(clips, size):
                encode(tokenizer, np.stack([frames[key] for key in keys]), size)

        return len(clips) / seconds(work)

    sizes = (1, params.latents.batch_size, 4 * params.latents.batch_size)
    figures = by_turns({str(size): lambda size=size: rate(size) for size in sizes}, repeats)
    for size, values in figures.items():
        print(f"VAE alone, {len(clips)} clips, batches of {size}, clips/s: {spread(values)}")


if __name__ == "__main__":
    main()
