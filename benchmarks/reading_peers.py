"""One peer of benchmarks.reading. The peer's interpreter runs it, so it imports nothing of this project.

    python reading_peers.py NAME FOLDER DATASET FRAMES STEPS

The first line of its input holds the lengths of the episodes: it writes the peer's file into FOLDER from FRAMES (.npy),
or opens DATASET, and answers with the size. Every further line holds batches of (episode, first frame): it answers with
seconds and a digest.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Read = Callable[[list[tuple[int, int]]], Any]


def stable_worldmodel(kind: str, folder: Path, frames: np.ndarray, lengths: list[int], steps: int) -> Any:
    from stable_worldmodel.data.formats import hdf5, lance

    path = folder / ("clips.h5" if kind == "HDF5" else "clips.lance")
    if not path.exists():
        ends = np.cumsum(lengths)
        writer = hdf5.HDF5Writer(path) if kind == "HDF5" else lance.LanceWriter(path)
        with writer:
            writer.write_episodes(
                {"pixels": list(frames[end - length : end])} for end, length in zip(ends, lengths, strict=True)
            )
    reader = hdf5.HDF5Dataset if kind == "HDF5" else lance.LanceDataset
    return reader(path=path, num_steps=steps, keys_to_load=["pixels"])


def lerobot(dataset: Path, steps: int) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    info = json.loads((dataset / "meta/info.json").read_text())
    camera = next(name for name, feature in info["features"].items() if feature["dtype"] == "image")
    times = [step / info["fps"] for step in range(steps)]
    return LeRobotDataset("local/clips", root=dataset, delta_timestamps={camera: times}), camera


def make_reader(name: str, folder: Path, dataset: Path, frames: Path, lengths: list[int], steps: int) -> Read:
    import torch
    from torch.utils.data import default_collate

    torch.set_num_threads(1)
    if name == "LeRobot":
        data, camera = lerobot(dataset, steps)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # frames are floats in [0, 1]: convert them to bytes, as on the other sides
        return lambda batch: default_collate(
            [(data[int(starts[e] + s)][camera] * 255).round().to(torch.uint8) for e, s in batch]
        )
    data = stable_worldmodel(name.split()[-1], folder, np.load(frames, mmap_mode="r"), lengths, steps)
    row_of = {tuple(map(int, clip)): i for i, clip in enumerate(data.clip_indices)}

    def read(batch: list[tuple[int, int]]) -> Any:
        rows = [row_of[e, s] for e, s in batch]
        samples = data.__getitems__(rows) if hasattr(data, "__getitems__") else [data[row] for row in rows]
        return default_collate([sample["pixels"] for sample in samples])

    return read


def main() -> None:
    name, folder, dataset, frames, steps = sys.argv[1], *map(Path, sys.argv[2:5]), int(sys.argv[5])
    lengths = json.loads(sys.stdin.readline())
    folder.mkdir()
    try:
        read = make_reader(name, folder, dataset, frames, lengths, steps)
        read([(0, 0)])
    except Exception as error:  # whatever fails in another library is reported, and its side is left out
        print(json.dumps({"refusal": f"{type(error).__name__}: {error}"[:300]}), flush=True)
        return
    stored = dataset / "data" if name == "LeRobot" else folder
    size = sum(file.stat().st_size for file in stored.rglob("*") if file.is_file())
    print(json.dumps({"size": size}), flush=True)
    for line in sys.stdin:
        batches = json.loads(line)
        first = read(batches[0]).contiguous()
        began = time.monotonic()
        for batch in batches:
            read(batch).contiguous()
        seconds = time.monotonic() - began
        digest = hashlib.sha256(first.numpy().tobytes()).hexdigest()
        print(json.dumps({"seconds": seconds, "digest": digest}), flush=True)


if __name__ == "__main__":
    main()
