"""What tests share: one run of the whole pipeline on the tiny profile, and one S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ceph import S3, User, missing_programs, running_s3
from client_release import Shelf
from fault_proxy import fault_proxy
from filelock import FileLock
from service import Service, make_workspace, running_service

from world2act.dvc_process import stage_environment

pytest_plugins = ["gate_artifacts", "release_pipeline"]

ROOT = Path(__file__).parents[1]
CLONE = "a clone"
# beside simulator processes, two torch threads on small models take longer than one
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Clone:
    """A copy of this tree, in a git repository of its own, whose path holds a space."""

    root: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as in an activated environment; `python` and `world2act` run the copy's code."""
        variables = stage_environment() | {
            "PYTHONPATH": str(self.root),
            "PREFECT_HOME": str(self.root.parent / "prefect"),
            "COLUMNS": "200",
        }
        if command[0] == "world2act":
            command = (sys.executable, "-m", "world2act.cli", *command[1:])
        return subprocess.run(command, cwd=self.root, env=variables | environment, capture_output=True, text=True)

    def must(self, *command: str, **environment: str) -> str:
        """Run a command that has to succeed. Returns: what it printed."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def make_clone(folder: Path) -> Clone:
    """Copy what git knows, or would know, of this tree, and put the tiny profile in force."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    clone = Clone(folder / CLONE)
    for name in filter(None, listed):
        if (ROOT / name).exists():
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone.root / name)
    (clone.root / "dvc.lock").unlink(missing_ok=True)
    clone.must("git", "init", "--quiet")
    clone.must("git", "config", "user.name", "test")
    clone.must("git", "config", "user.email", "test@localhost")
    clone.must("world2act", "profile", "tiny", "--force")
    clone.must("git", "add", "--all")
    clone.must("git", "commit", "--quiet", "--message", "a clone")
    return clone


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The pipeline after its first run, by Prefect. Tests read it; what changes anything works on a copy.

    Where several processes run the tests, the first that asks makes it, and the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny"
    with FileLock(f"{folder}.lock"):
        outcome = folder / "exit status"
        if not outcome.exists():
            clone = make_clone(folder)
            done = clone.run("python", "-m", "flows.pipeline")
            (clone.root / "flow.log").write_text(done.stdout + done.stderr)
            outcome.write_text(str(done.returncode))
    clone = Clone(folder / CLONE)
    assert outcome.read_text() == "0", (clone.root / "flow.log").read_text()[-6000:]
    return clone


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Prefect server and worker on a small workspace, started by the first test that asks for them."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, make_workspace(folder / "workspace")) as running:
        yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server, started by the first test that asks for it. Each test makes buckets and users of its own."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"Ceph is not installed: {', '.join(missing)} (tests/ceph.py says how to get it)")
    # a short path of its own: the name of a Unix socket may have 107 bytes
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder, running_s3(Path(folder) / "s3") as server:
        yield server


@pytest.fixture(scope="session")
def robot(s3: S3) -> User:
    """A user who may only read, and only where a test's bucket lets them."""
    return s3.make_user()


@pytest.fixture
def shelf(s3: S3, robot: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A bucket of releases behind a proxy, and the environment of a robot that may read it."""
    with fault_proxy(s3.endpoint) as proxy:
        shelf = Shelf(s3, proxy, s3.make_bucket(), tmp_path)
        s3.allow(robot, shelf.bucket, "s3:GetObject", "s3:ListBucket")
        variables = robot.environment(proxy.endpoint) | {
            "WORLD2ACT_STORE": shelf.url,
            "WORLD2ACT_CACHE": str(shelf.cache),
            "WORLD2ACT_TRUSTED_KEYS": str(shelf.trusted),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield shelf
