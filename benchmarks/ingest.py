"""What a pass of ingest costs at 1,000 and at 10,000 objects: seconds, and peak memory, which should not grow.

    python -m benchmarks.ingest [--repeats 3] [--recordings 10]

There is one S3 server (Ceph, as the tests start it) with a separate store for each size. A few recordings arrive and
are taken; then copies of them arrive until the store has that many objects, five per upload. The first pass over the
copies decides on all of them (it knows them by their ETags); later passes find nothing new. Every pass is a separate
process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import describe_machine, ratio, spread
from tests.helpers.ceph import S3, running_s3
from tests.helpers.recordings import ROOT, episodes, files_of, make_workspace, write_upload

SIZES = (1_000, 10_000)
PASS = """
import json, sys, time
from datetime import timedelta
from pathlib import Path
from world2act_client.store import Store
from world2act.ingest.run import run_pass
from world2act.core.params import load_params

def peak_mib():  # not ru_maxrss, which starts at the parent's value
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024

store, params, reads = Store(sys.argv[1]), load_params(), []
store.s3.meta.events.register("before-parameter-build.s3.GetObject", lambda **_: reads.append(1))
before, began, busy = peak_mib(), time.monotonic(), time.process_time()
seen = run_pass(store, "incoming/", params, stale_after=timedelta(days=1), commit=False)
figures = {"s": time.monotonic() - began, "cpu_s": time.process_time() - busy, "mib": peak_mib(), "before_mib": before}
print(json.dumps(figures | {"reads": len(reads), "objects": seen.objects, "decided": len(seen.decided)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recordings", type=int, default=10)
    arguments = parser.parse_args()
    print(f"machine: {describe_machine('boto3', 'dvc', 'dvc-s3', 'pyarrow')}")
    with tempfile.TemporaryDirectory(prefix="ingest-") as name, running_s3(Path(name) / "s3") as s3:
        os.environ.update(s3.environment())
        folder, bucket = Path(name), s3.make_bucket()
        uploads = [write_upload(folder / f"upload-{i}", episodes(i)) for i in range(arguments.recordings)]
        stores = {size: f"s3://{bucket}/{size}" for size in SIZES}
        workspaces = {size: make_workspace(folder / f"workspace-{size}", stores[size]) for size in SIZES}
        for size in SIZES:
            _put(s3, bucket, size, uploads)
            taken = _pass(workspaces[size], stores[size])
            assert taken["decided"] == len(uploads), taken
            print(f"{size:,}: taking {len(uploads)} uploads: {taken['s'] / len(uploads):.2f} s per upload in total")
            _copy(s3, bucket, size, uploads)
            decided = _pass(workspaces[size], stores[size])
            assert (decided["objects"], decided["reads"]) == (size, 0), decided
            print(f"{size:,} objects: the pass that decides on {decided['decided']:,} uploads: {decided['s']:.1f} s")
        figures: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
        for _ in range(arguments.repeats):
            for size in SIZES:
                figures[size].append(_pass(workspaces[size], stores[size]))
    for size, passes in figures.items():
        assert all((one["objects"], one["reads"], one["decided"]) == (size, 0, 0) for one in passes)
        columns = {key: spread([one[key] for one in passes]) for key in ("s", "cpu_s", "mib", "before_mib")}
        print(f"{size:,} objects, nothing new: s: {columns['s']}; CPU s: {columns['cpu_s']}")
        print(f"{size:,} objects, peak MiB: {columns['mib']}; before the pass: {columns['before_mib']}")
    small, large = ([one["mib"] for one in figures[size]] for size in SIZES)
    print(f"peak memory, {SIZES[1]:,} / {SIZES[0]:,} objects: {ratio(large, small)}")


def _pass(workspace: Path, store: str) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PASS, store]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _put(s3: S3, bucket: str, size: int, uploads: list[Path]) -> None:
    for upload in uploads:
        for name in files_of(upload):
            s3.client().upload_file(str(upload / name), bucket, f"{size}/incoming/{upload.name}/{name}")


def _copy(s3: S3, bucket: str, size: int, uploads: list[Path]) -> None:
    """Copy uploads inside the store until it holds `size` objects."""
    client, names = s3.client(), files_of(uploads[0])
    missing = size // len(names) - len(uploads)

    def copy(number: int) -> None:
        source = uploads[number % len(uploads)].name
        for name in names:
            key = f"{size}/incoming/copies/{number:05d}/{name}"
            client.copy_object(Bucket=bucket, Key=key, CopySource=f"{bucket}/{size}/incoming/{source}/{name}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(copy, range(missing)))


if __name__ == "__main__":
    main()
