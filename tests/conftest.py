"""What tests share: one run of the whole pipeline on the tiny profile, one S3 server; and in which order they run."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.ceph import S3, User, missing_programs, running_s3
from tests.helpers.client_release import Shelf
from tests.helpers.fault_proxy import fault_proxy
from tests.helpers.paths import ROOT
from tests.helpers.service import Service, make_workspace, running_service
from world2act.processes.dvc_command import stage_environment

pytest_plugins = ["tests.helpers.gate_artifacts", "tests.helpers.release_pipeline"]

CLONE = "a clone"
# beside simulator processes, two torch threads on small models take longer than one
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The files that take longest, in the order in which they begin: what begins last is short, and no process works alone
# at the end. The first makes `tiny_run`; the others that read it come when it is there.
FIRST = (
    "bad_input",
    "training",
    "survival",
    "infra_deepspeed",
    "flow",
    "flow_evaluate",
    "ingest",
    "release",
    "operations",
    "own_demonstrations",
    "e2e",
    "garbage",
    "world_model_page",
    "flow_ingest",
    "release_flows",
    "readme",
    "sharding",
    "ui",
    "skills_preview",
    "ingest_demos",
    "demos",
    "training_dry_run",
)


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as processors: a third of the time a test waits, for a server or for a process to end."""
    return math.ceil(1.5 * (os.cpu_count() or 1))


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # by the number of tests, where --dist loadfile is in force


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(FIRST)}
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), -count[item.path], item.path))


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
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run's processes together. The first that asks for what it holds makes it; the others wait."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def prefect_database(shared: Path) -> Path:
    """A database as Prefect makes it at a server's first start, which takes three times as long as any other."""
    folder = shared / "prefect"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            subprocess.run(command, env=kept | {"PREFECT_HOME": str(folder)}, capture_output=True, check=True)
            (folder / "made").touch()
    return folder / "prefect.db"


@pytest.fixture(scope="module")
def prefect_server(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of a module's own, which the flows that it calls find."""
    from prefect.testing.utilities import prefect_test_harness

    folder = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, folder / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect.testing.utilities.mkdtemp", lambda: str(folder))
        with prefect_test_harness(server_startup_timeout=300):
            yield


@pytest.fixture(scope="session")
def tiny_run(shared: Path, prefect_database: Path) -> Clone:
    """The pipeline after its first run, by Prefect. Tests read it; what changes anything works on a copy."""
    folder = shared / "tiny"
    with FileLock(f"{folder}.lock"):
        outcome = folder / "exit status"
        if not outcome.exists():
            clone = make_clone(folder)
            (folder / "prefect").mkdir(exist_ok=True)
            shutil.copy(prefect_database, folder / "prefect")
            done = clone.run("python", "-m", "flows.pipeline")
            (clone.root / "flow.log").write_text(done.stdout + done.stderr)
            outcome.write_text(str(done.returncode))
    clone = Clone(folder / CLONE)
    assert outcome.read_text() == "0", (clone.root / "flow.log").read_text()[-6000:]
    return clone


@pytest.fixture(scope="session")
def service(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Prefect server and worker on a small workspace, started by the first test that asks for them."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, make_workspace(folder / "workspace"), prefect_database) as running:
        yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server, started by the first test that asks for it. Each test makes buckets and users of its own."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"Ceph is not installed: {', '.join(missing)} (tests/helpers/ceph.py says how to get it)")
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
