"""What the pipeline costs: wall time and peak memory from scratch, and of a rerun with nothing to do.

    python -m benchmarks.pipeline [--profile tiny] [--runs 1]

Clones the repository's HEAD into a temporary folder, runs `dvc repro` there, and prints one line per figure, with
the machine and the spread over the runs. Peak memory is the sum of the proportional set sizes of all processes at one
moment, sampled every half second.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="default")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, {memory}, Python {platform.python_version()}")
    print(f"profile: {arguments.profile}, runs: {arguments.runs}, load before: {os.getloadavg()[0]:.2f}")
    scratch, peaks, idle = [], [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "world2act"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            subprocess.run([sys.executable, "-m", "world2act.cli", "profile", arguments.profile], cwd=clone, check=True)
            seconds, peak = measured(["dvc", "repro", "--quiet"], clone)
            scratch.append(seconds)
            peaks.append(peak)
            idle.append(measured(["dvc", "repro", "--quiet"], clone)[0])
    show("pipeline from scratch, s", scratch)
    show("peak memory, GiB", peaks)
    show("rerun with nothing to do, s", idle)


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command to its end. Returns wall seconds, and the peak memory of its processes in GiB."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)})
    peak = 0.0
    done = threading.Event()
    threading.Thread(target=lambda: (process.wait(), done.set()), daemon=True).start()
    while not done.wait(0.5):
        peak = max(peak, tree_memory(psutil.Process(process.pid)))
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit status {process.returncode}")
    return time.monotonic() - began, peak / 2**30


def tree_memory(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it has ended meanwhile
    return total


def show(name: str, values: list[float]) -> None:
    ordered = sorted(values)
    print(f"{name}: median {ordered[len(ordered) // 2]:.2f}, min {ordered[0]:.2f}, max {ordered[-1]:.2f}")


if __name__ == "__main__":
    main()
