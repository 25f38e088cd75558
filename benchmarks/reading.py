"""Reading clips for training: our frame cache against the readers of stable-worldmodel and LeRobot, in alternation.

    python -m benchmarks.reading DATASET [--peers PYTHON] [--frames 17] [--batch 16] [--batches 50] [--repeats 3]

DATASET is a LeRobot v3 folder of this pipeline, such as artifacts/demos/video_only of a finished run. PYTHON is the
interpreter of an environment with stable-worldmodel[format] and lerobot, or one of them; a library that cannot be
imported is left out, and the output says so. Every side returns batches of clips, uint8 (B, T, C, H, W), contiguous, in
the way of its library. One process and one thread read, the data are in the page cache, and importing and opening are
not counted. All sides read the same clips. stable-worldmodel's Lance writer stores JPEG of quality 95: nearly the same
pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import by_turns, describe_machine, ratio, spread
from world2act.data.frame_cache import FrameCache
from world2act.data.lerobot_v3 import EpisodeDataset

PEERS = ("stable-worldmodel HDF5", "stable-worldmodel Lance", "LeRobot")
OURS, PNG = "our frame cache", "our PNGs in parquet"

Side = Callable[[str], dict[str, Any]]
"""Reads the batches of a plan, and returns `seconds` and `digest`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--peers", help="the Python of an environment with stable-worldmodel and lerobot")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = EpisodeDataset.open(arguments.dataset)
    camera = dataset.cameras[0]
    print(f"machine: {describe_machine('torch', 'pyarrow')}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache = FrameCache.open(dataset, camera, root / "ours")
        print(f"data: {len(cache.frames)} frames of {cache.frames.shape[1:]}, {len(dataset)} episodes")
        sides: dict[str, Side] = {
            OURS: lambda plan: timed(plan, lambda e, s: cache.clips(e, s, arguments.frames)),
            PNG: lambda plan: timed(
                plan,
                lambda e, s: np.stack(
                    [dataset.frames(i, camera, range(j, j + arguments.frames)) for i, j in zip(e, s, strict=True)]
                ),
            ),
        }
        frames = next((root / "ours").rglob("frames.npy"))
        sizes = {OURS: frames.stat().st_size, PNG: size_of(arguments.dataset / "data")}
        for name in PEERS if arguments.peers else ():
            files = root / name.replace(" ", "-")
            peer = Peer([arguments.peers, name, files, arguments.dataset.resolve(), frames], arguments.frames, dataset)
            if peer.refusal:
                print(f"{name}: left out, {peer.refusal}")
                continue
            sides[name], sizes[name] = peer.read, peer.size
        for order in ("shuffled", "sequential"):
            compare(order, sides, sizes, dataset.lengths, arguments)


def compare(
    order: str, sides: dict[str, Side], sizes: dict[str, int], lengths: list[int], arguments: argparse.Namespace
) -> None:
    """Read the same batches on every side, and print the rates."""
    plan = json.dumps(plan_batches(lengths, arguments, order))
    digests: dict[str, str] = {}

    def measure(name: str) -> float:
        result = sides[name](plan)
        digests[name] = result["digest"]
        return result["seconds"]

    wall_s = by_turns({name: lambda name=name: measure(name) for name in sides}, arguments.repeats)
    clips = arguments.batch * arguments.batches
    for name, values in wall_s.items():
        rates = [clips / value for value in values]
        pixels = "the same pixels" if digests[name] == digests[OURS] else "other pixels"
        print(
            f"{order}, {name}: {spread(rates, 0)} clips/s, {np.median(rates) * arguments.frames:.0f} frames/s, "
            f"{sizes[name] / 2**20:.0f} MiB, {pixels}"
        )
    for name in wall_s.keys() - {OURS}:
        print(f"{order}: ours is {ratio(wall_s[name], wall_s[OURS])} times as fast as {name}")


def plan_batches(lengths: list[int], arguments: argparse.Namespace, order: str) -> list[list[tuple[int, int]]]:
    """Batches of (episode, first frame): clips in the order of the data, or drawn at random."""
    steps = 1 if order == "shuffled" else arguments.frames
    starts = [(i, j) for i, length in enumerate(lengths) for j in range(0, length - arguments.frames + 1, steps)]
    count = arguments.batch * arguments.batches
    if order == "shuffled":
        chosen = np.random.default_rng(0).integers(0, len(starts), count).tolist()
    else:
        chosen = [k % len(starts) for k in range(count)]
    return [[starts[k] for k in chosen[i : i + arguments.batch]] for i in range(0, count, arguments.batch)]


def timed(plan: str, read: Callable[[list[int], list[int]], np.ndarray]) -> dict[str, Any]:
    """Read all batches. Returns the seconds, and the digest of the first batch."""
    batches = json.loads(plan)
    first = to_tensor(read(*map(list, zip(*batches[0], strict=True))))
    began = time.monotonic()
    for batch in batches:
        to_tensor(read(*map(list, zip(*batch, strict=True))))
    return {"seconds": time.monotonic() - began, "digest": hashlib.sha256(first.numpy().tobytes()).hexdigest()}


def to_tensor(clips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3).contiguous()


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Peer:
    """Another library's reader, in its own interpreter. `refusal` says why it cannot read the dataset."""

    def __init__(self, command: Sequence[str | Path], steps: int, dataset: EpisodeDataset) -> None:
        python, *arguments = map(str, command)
        script = str(Path(__file__).with_name("reading_peers.py"))
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script, *arguments, str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        ready = self._ask(json.dumps(dataset.lengths))
        self.refusal: str | None = ready.get("refusal")
        self.size: int = ready.get("size", 0)

    def read(self, plan: str) -> dict[str, Any]:
        return self._ask(plan)

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        for answer in self._process.stdout:
            if answer.startswith("{"):
                return json.loads(answer)
        sys.exit(f"{self._process.args} ended with exit status {self._process.wait()}")


if __name__ == "__main__":
    main()
