"""What it costs to publish a version that changes one file of many: bytes sent, seconds, bytes stored.

    python -m benchmarks.publishing [--files 20] [--megabytes 50] [--repeats 3] [--objectstore bluestore]

A small real pipeline (that of the tests) makes the artifact. One S3 server (Ceph, as the tests start it) holds the
store; a proxy in front of it counts the bodies of requests. Every repetition starts with an empty store: the first
version is published, one file changes, the second version is published, and boto3 uploads all of the same files.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from world2act_client.signing import make_key_pair

from benchmarks.measure import describe_machine, ratio, seconds, spread
from tests.helpers.ceph import S3, running_s3
from tests.helpers.fault_proxy import FaultProxy, fault_proxy
from tests.helpers.release_pipeline import Pipeline, make_pipeline

UPLOAD = """
import boto3, concurrent.futures, pathlib, sys
client, (bucket, *files) = boto3.client("s3"), sys.argv[1:]
with concurrent.futures.ThreadPoolExecutor(8) as threads:
    list(threads.map(lambda path: client.upload_file(path, bucket, f"plain/{pathlib.Path(path).name}"), files))
"""
FIRST, SECOND, WHOLE = "first version", "second version, one file changed", "boto3, every file"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=50, help="size of each file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--objectstore", default="bluestore", choices=["memstore", "bluestore"])
    arguments = parser.parse_args()
    print(f"machine: {describe_machine('boto3', 'dvc', 'dvc-s3')}")
    print(f"release: {arguments.files} files of {arguments.megabytes} MB; server: Ceph, {arguments.objectstore}")
    room = 4 + 3 * arguments.repeats * arguments.files * arguments.megabytes // 1000
    with (
        tempfile.TemporaryDirectory(prefix="publishing-") as name,
        running_s3(Path(name) / "s3", arguments.objectstore, room) as s3,
        fault_proxy(s3.endpoint) as proxy,
    ):
        os.environ.update(s3.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})
        os.environ["WORLD2ACT_SIGNING_KEY"] = str(make_key_pair(Path(name) / "keys")[0])
        size = arguments.megabytes * 10**6
        parts = {"parts": arguments.files, "seeds": [0] * arguments.files, "rate": 6}
        pipeline = make_pipeline(Path(name) / "pipeline", "s3://none/none", size=size, post_train=parts)
        moved: dict[str, list[float]] = {}
        taken: dict[str, list[float]] = {}
        for turn in range(arguments.repeats):
            for side, (count, wall_s) in _turn(s3, proxy, pipeline, turn + 1).items():
                moved.setdefault(side, []).append(count / 1e6)
                taken.setdefault(side, []).append(wall_s)
    for side in (FIRST, SECOND, WHOLE):
        print(f"{side}: MB moved: {spread(moved[side], 3)}; s: {spread(taken[side])}")
    for side in (FIRST, WHOLE):
        print(f"{SECOND} / {side}: bytes {ratio(moved[SECOND], moved[side])}; s {ratio(taken[SECOND], taken[side])}")
    print(f"more than the changed file, kB: {spread([(mb - arguments.megabytes) * 1000 for mb in moved[SECOND]])}")


def _turn(s3: S3, proxy: FaultProxy, pipeline: Pipeline, turn: int) -> dict[str, tuple[int, float]]:
    """One repetition with a new store: side → bytes that clients sent, wall seconds."""
    bucket = s3.make_bucket()
    pipeline = Pipeline(pipeline.root, f"s3://{bucket}/store").use_store()
    figures = {FIRST: _counted(proxy, lambda: pipeline.run("world2act", "publish", "policy"))}
    count = len(_parts(pipeline))
    pipeline.set(post_train={"seeds": [turn, *[0] * (count - 1)]}).repro()
    figures[SECOND] = _counted(proxy, lambda: pipeline.run("world2act", "publish", "policy"))
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="store/files/")
    sizes = [listed["Size"] for page in pages for listed in page["Contents"]]
    large = [size for size in sizes if size > 10**6]
    assert len(large) == count + 1, f"{len(large)} large objects for two versions of {count} files"
    print(f"turn {turn}: two versions of {count} files are {len(large)} objects, {sum(sizes) / 1e6:.3f} MB")
    files = [str(path) for path in _parts(pipeline)]
    figures[WHOLE] = _counted(proxy, lambda: pipeline.run(sys.executable, "-c", UPLOAD, bucket, *files))
    return figures


def _counted(proxy: FaultProxy, work: Callable[[], object]) -> tuple[int, float]:
    before = len(proxy.log)
    wall_s = seconds(work)
    return sum(answer.received for answer in proxy.log[before:]), wall_s


def _parts(pipeline: Pipeline) -> list[Path]:
    return sorted((pipeline.root / "artifacts/post_train").glob("part-*.bin"))


if __name__ == "__main__":
    main()
