"""A Prefect server and worker in processes of their own, and a small workspace that they serve."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from dvc.repo import Repo

from flows.serve import end
from flows.server import retry_temporary
from tests.helpers.paths import ROOT
from world2act.processes.dvc_command import stage_environment

# Each stage adds its name to ran.log. `long` also says which process it is, and goes on only once there is `go`.
_STAGE = """
import os, pathlib, sys, time
import world2act
name = sys.argv[1]
with open("ran.log", "a") as log:
    print(name, file=log)
if name == "long":
    pathlib.Path("long.pid").write_text(str(os.getpid()))
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
pathlib.Path(f"{name}.txt").write_text(name)
"""
_ORDER = ("first", "long", "last")


def make_workspace(root: Path) -> Path:
    """A git and DVC repository of three stages in a row, the second of which waits; it runs this tree's flows."""
    root.mkdir(parents=True)
    (root / "stage.py").write_text(_STAGE)
    stages = {
        name: {
            "cmd": f"exec python stage.py {name}",
            "deps": ["stage.py", *([f"{before}.txt"] if before else [])],
            "outs": [{f"{name}.txt": {"persist": True}}],
        }
        for name, before in zip(_ORDER, (None, *_ORDER), strict=False)
    }
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (root / "flows").symlink_to(ROOT / "flows")
    (root / "infra").symlink_to(ROOT / "infra")
    write_deployments(root)
    (root / ".gitignore").write_text("*.txt\n*.log\n*.pid\ngo\n__pycache__\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    Repo.init(str(root)).close()
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "--message", "a workspace"], cwd=root, check=True)
    return root


def write_deployments(root: Path, *without: str) -> None:
    """The deployments of the pipeline and of a placed stage, and no schedule, nor what `without` names."""
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    wanted = ("flows/pipeline.py:pipeline", "flows/placement.py:run_placed_stage")
    deployments["deployments"] = [
        {key: value for key, value in each.items() if key not in ("schedules", *without)}
        for each in deployments["deployments"]
        if each["entrypoint"] in wanted and each["work_pool"]["name"] == "process"
    ]
    (root / "prefect.yaml").write_text(yaml.safe_dump(deployments))


def ran(root: Path) -> list[str]:
    """The stages that ran in a workspace, in order."""
    log = root / "ran.log"
    return log.read_text().split() if log.exists() else []


def until(condition: Callable[[], Any], timeout_s: float = 120, what: str = "") -> Any:
    """Wait for something to become true. Returns: it."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, what or condition
        time.sleep(0.1)
    return value


def long_stage(root: Path) -> psutil.Process:
    """The process of the stage that waits, once it runs."""
    path = root / "long.pid"
    until(lambda: path.exists() and path.read_text(), what="the stage `long` did not start")
    return psutil.Process(int(path.read_text()))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    """Server and worker, which can be killed and started again apart from each other."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.workspaces = folder / "workspaces"
        self.log = (folder / "service.log").open("ab")
        self.environment = {
            name: value for name, value in stage_environment().items() if not name.startswith("PREFECT_")
        } | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_LEVEL": "INFO",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": os.pathsep.join([str(root), str(ROOT)]),
            "WORLD2ACT_WORKSPACES": str(self.workspaces),
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", *arguments]
        return subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=self.log, stderr=self.log)

    def start_server(self) -> None:
        self.server = self._start("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        until(self._is_healthy, 300, "the server did not start")

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.environment['PREFECT_API_URL']}/health", timeout=2).is_success
        except httpx.TransportError:
            return False

    def start_worker(self) -> None:
        self.worker = self._start("worker", "start", "--pool", "process", "--type", "process")

    def set_up(self) -> None:
        for command in ("flows.set_up",), ("prefect", "--no-prompt", "deploy", "--all"):
            done = subprocess.run(
                [sys.executable, "-m", *command], cwd=self.root, env=self.environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def clean(self) -> None:
        """Make the workspace as if nothing had run in it yet."""
        left = ("ran.log", "long.pid", "go", "dvc.lock", ".dvc/config.local")
        for path in [*self.root.glob("*.txt"), *(self.root / name for name in left)]:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.root / ".dvc/cache", ignore_errors=True)

    def kill_worker(self) -> list[str]:
        """SIGKILL to the worker and all that it started. Returns: their command lines."""
        assert self.worker is not None
        return kill_tree(self.worker)

    def stop(self) -> None:
        for name, process in ("worker", self.worker), ("server", self.server):
            if process is not None:
                end(name, process)
        self.log.close()

    def log_tail(self) -> str:
        """What server and worker said last."""
        return Path(self.log.name).read_text()[-6000:]

    def call(self, method: str, path: str, content: Any = None) -> Any:
        """One request to the API, as the flows make theirs: what the server calls temporary is tried again."""
        url = f"{self.environment['PREFECT_API_URL']}{path}"
        answer = retry_temporary(lambda: httpx.request(method, url, json=content, timeout=120).raise_for_status())
        return answer.json() if answer.content else None

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a flow run. Returns: its id."""
        known = self.call("GET", f"/deployments/name/{deployment}")
        return self.call("POST", f"/deployments/{known['id']}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, run: str) -> str:
        """The name of a flow run's state."""
        return self.call("GET", f"/flow_runs/{run}")["state"]["name"]

    def events(self, run: str) -> list[dict[str, Any]]:
        """What the server recorded of a flow run."""
        resource = {"id": [f"prefect.flow-run.{run}"]}
        return self.call("POST", "/events/filter", {"filter": {"resource": resource}, "limit": 50})["events"]

    def wait_for(self, run: str, *names: str, timeout_s: float = 180) -> None:
        """Wait until a flow run is in one of some states."""
        until(lambda: self.state(run) in names, timeout_s, f"the flow run did not end as {' or '.join(names)}")


def kill_tree(process: subprocess.Popen[bytes]) -> list[str]:
    """SIGKILL to a process and all that it started, at once. Returns: their command lines."""
    root = psutil.Process(process.pid)
    root.suspend()
    tree = [*root.children(recursive=True), root]
    commands = []
    for each in tree:  # all of them before the first dies, which would take its children along
        with suppress(psutil.NoSuchProcess):
            each.suspend()
            commands.append(" ".join(each.cmdline()))
    for each in tree:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    return commands


@contextmanager
def running_service(folder: Path, root: Path, database: Path) -> Iterator[Service]:
    """A server, on a copy of a database, and a worker on a workspace."""
    service = Service(folder, root)
    (folder / "prefect").mkdir()
    shutil.copy(database, folder / "prefect")
    try:
        service.start_server()
        service.set_up()
        service.start_worker()
        yield service
    finally:
        service.stop()
