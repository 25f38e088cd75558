"""How long a robot waits for a release: `world2act-client get` against `dvc get`, `aws s3 cp` and plain boto3.

    python -m benchmarks.retrieval [--megabytes 1000] [--files 20] [--repeats 5] [--objectstore memstore]

One S3 server (Ceph, as the tests start it) holds the release as `dvc push` stores it, and the same files under their
names for the tools that do not know DVC. Every side is a separate process and fetches into an empty folder with empty
caches; the sides alternate. Then the same get runs again through a proxy that counts the bytes of payload, which must
be zero.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from world2act_client.manifest import MANIFEST_TYPE, FileEntry, Manifest
from world2act_client.signing import load_signing_key, make_key_pair, seal
from world2act_client.store import Store, manifest_key

from benchmarks.measure import by_turns, describe_machine, ratio, seconds, spread
from tests.helpers.ceph import S3, running_s3
from tests.helpers.fault_proxy import fault_proxy

OURS = "world2act-client get"
PLAIN_BOTO3 = """
import boto3, pathlib, sys
client, (bucket, out) = boto3.client("s3"), sys.argv[1:]
for listed in client.list_objects_v2(Bucket=bucket, Prefix="plain/")["Contents"]:
    client.download_file(bucket, listed["Key"], str(pathlib.Path(out) / pathlib.Path(listed["Key"]).name))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--objectstore", default="memstore", choices=["memstore", "bluestore"])
    arguments = parser.parse_args()
    print(f"machine: {describe_machine('boto3', 'dvc', 'dvc-s3')}")
    print(f"release: {arguments.megabytes} MB in {arguments.files} files; server: Ceph, {arguments.objectstore}")
    with (
        tempfile.TemporaryDirectory(prefix="retrieval-") as name,
        running_s3(Path(name) / "s3", arguments.objectstore, 4 + 3 * arguments.megabytes // 1000) as s3,
    ):
        folder = Path(name)
        bench = Bench(s3, folder, s3.make_bucket(), _install_aws(folder))
        bench.publish(arguments.megabytes * 10**6, arguments.files)
        figures = by_turns(bench.sides(), arguments.repeats)
        for side, values in figures.items():
            print(f"{side}, s: {spread(values)}")
        for side, values in figures.items():
            if side != OURS:
                print(f"{side} / {OURS}: {ratio(values, figures[OURS])}")
        warm, payload = bench.warm(arguments.repeats)
        print(f"{OURS} again, s: {spread(warm)}; bytes of payload read: {payload}")


def _install_aws(folder: Path) -> Path:
    """The AWS command line in a separate environment, because it pins another botocore."""
    venv.create(folder / "aws", with_pip=True)
    python = folder / "aws" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "awscli"], check=True, capture_output=True)
    done = subprocess.run([folder / "aws/bin/aws", "--version"], capture_output=True, text=True, check=True)
    print(f"against: {done.stdout.split()[0]}")
    return folder / "aws" / "bin" / "aws"


@dataclass
class Bench:
    """One release on one server, and the ways to fetch it."""

    s3: S3
    folder: Path
    bucket: str
    aws: Path

    def publish(self, size: int, count: int) -> None:
        """Push random files with DVC, write a signed manifest over the objects, and upload the files by name."""
        repository, data = self.folder / "repository", self.folder / "repository" / "data"
        data.mkdir(parents=True)
        entries = []
        for number in range(count):
            content = os.urandom(size // count)
            (data / f"file-{number:02d}").write_bytes(content)
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            entries.append(FileEntry(f"file-{number:02d}", len(content), md5, hashlib.sha256(content).hexdigest()))
            self.s3.client().put_object(Bucket=self.bucket, Key=f"plain/file-{number:02d}", Body=content)
        identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        for command in (
            ["git", "init", "--quiet"],
            ["dvc", "init", "--quiet"],
            ["dvc", "remote", "add", "--quiet", "--default", "store", self.url],
            ["dvc", "add", "--quiet", "data"],
            ["dvc", "push", "--quiet"],
            ["git", "add", "--all"],
            ["git", *identity, "commit", "--quiet", "--message", "a release"],
        ):
            self.run(*command, cwd=repository)
        private, _ = make_key_pair(self.folder / "keys")
        git = {"revision": "", "url": None, "modified": []}
        created = datetime.now(UTC).isoformat()
        manifest = Manifest("policy", 1, created, git, {}, [], {}, {}, {}, tuple(entries))
        os.environ.update(self.s3.environment())
        Store(self.url).put_new(
            manifest_key("policy", 1), seal(MANIFEST_TYPE, manifest.to_payload(), load_signing_key(private))
        )

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/store"

    def sides(self) -> dict[str, Callable[[], float]]:
        """The ways to fetch the release without caches: name → wall seconds."""
        out = str(self.folder / "out")
        return {
            OURS: lambda: self.cold(sys.executable, "-m", "world2act_client.cli", "get", "policy@v1", out),
            "dvc get": lambda: self.cold("dvc", "get", "--quiet", str(self.folder / "clone"), "data", "--out", out),
            "aws s3 cp --recursive": lambda: self.cold(
                str(self.aws), "s3", "cp", "--recursive", "--only-show-errors", f"s3://{self.bucket}/plain", out
            ),
            "boto3 download_file": lambda: self.cold(
                sys.executable, "-c", PLAIN_BOTO3, self.bucket, out, make_out=True
            ),
        }

    def cold(self, *command: str, make_out: bool = False) -> float:
        """Wall seconds of a command when no part of the release is on this machine."""
        for name in ("out", "home", "clone"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.run("git", "clone", "--quiet", str(self.folder / "repository"), str(self.folder / "clone"))
        (self.folder / "home").mkdir()
        if make_out:
            (self.folder / "out").mkdir()
        os.sync()  # so that this side does not wait for what the last one wrote
        taken = seconds(lambda: self.run(*command))
        fetched = sorted(path for path in (self.folder / "out").rglob("file-*"))
        expected = sorted((self.folder / "repository" / "data").iterdir())
        assert [path.name for path in fetched] == [path.name for path in expected], f"{command[0]}: {fetched}"
        return taken

    def warm(self, repeats: int) -> tuple[list[float], int]:
        """Seconds and bytes of payload of getting a release that is already there."""
        get = (sys.executable, "-m", "world2act_client.cli", "get", "policy@v1", str(self.folder / "out"))
        self.cold(*get)
        with fault_proxy(self.s3.endpoint) as proxy:
            taken = [seconds(lambda: self.run(*get, endpoint=proxy.endpoint)) for _ in range(repeats)]
            return taken, proxy.payload_bytes()

    def run(self, *command: str, cwd: Path | None = None, endpoint: str | None = None) -> None:
        variables = self.s3.admin.environment(endpoint or self.s3.endpoint) | {
            "HOME": str(self.folder / "home"),
            "WORLD2ACT_STORE": self.url,
            "WORLD2ACT_TRUSTED_KEYS": str(self.folder / "keys" / "trusted.pem"),
            "DVC_NO_ANALYTICS": "1",
        }
        subprocess.run(command, cwd=cwd, env=os.environ | variables, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
