"""What shards gain: a stage in one process, in shards in several processes, and in shards over Dask.

    python -m benchmarks.sharding WORKSPACE [--stages latents rollouts] [--shards 2] [--repeats 3]

WORKSPACE is a folder where the pipeline of this revision has run; its artifacts are copied into a clone of HEAD. On all
sides, every process has one torch thread. A side ends when the artifact is written, and the bytes are compared. The
time of Dask includes the start of its cluster, but not of the Prefect server, which runs anyway wherever flows run. A
process takes seconds to start, so shards are worth it if a stage has minutes of work.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from prefect.server.api.server import SubprocessASGIServer

from benchmarks.measure import by_turns, describe_machine, ratio, seconds, spread
from world2act.core.storage import sha256

ROOT = Path(__file__).parents[1]
WHOLE, SHARDS, DASK = "one process", "shards, one process each", "shards over Dask"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--stages", nargs="+", default=["latents", "rollouts"])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"machine: {describe_machine('torch', 'prefect', 'prefect-dask')}")
    with tempfile.TemporaryDirectory() as folder, SubprocessASGIServer() as server:
        clone = Path(folder) / "world2act"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for name in ("artifacts", "reports"):
            shutil.copytree(arguments.workspace / name, clone / name)
        for stage in arguments.stages:
            measure(clone, stage, arguments.shards, arguments.repeats, server.api_url)


def measure(clone: Path, stage: str, shards: int, repeats: int, server: str) -> None:
    """Print the seconds of every side for one stage, and how many times as fast as one process the others are."""
    start = partial(
        subprocess.Popen,
        cwd=clone,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone), "PREFECT_API_URL": server},
    )
    digests: set[str] = set()

    def run(*commands: list[str]) -> None:
        for process in [start([sys.executable, "-m", *command]) for command in commands]:
            if process.wait():
                sys.exit(f"{process.args} failed with exit status {process.returncode}")

    def side(*before: list[str]) -> float:
        shutil.rmtree(clone / "artifacts" / stage)

        def work() -> None:
            run(*before)
            run([f"stages.{stage}"])

        wall_s = seconds(work)
        digests.add(sha256(clone / "artifacts" / stage))
        return wall_s

    commands = [[f"stages.{stage}", "--shard", f"{k + 1}/{shards}"] for k in range(shards)]
    sides = {
        WHOLE: side,
        SHARDS: lambda: side(*commands),
        DASK: lambda: side(["flows.spread", stage, "--shards", str(shards)]),
    }
    figures = by_turns(sides, repeats)
    for name, values in figures.items():
        print(f"{stage}, {name}, s: {spread(values)}")
    for name in (SHARDS, DASK):
        print(f"{stage}, {shards} {name}: {ratio(figures[WHOLE], figures[name])} times as fast as one process")
    print(f"{stage}: {'the same bytes on every side' if len(digests) == 1 else f'BYTES DIFFER: {digests}'}")


if __name__ == "__main__":
    main()
