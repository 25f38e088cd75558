"""`make serve`: server, worker and deployments, on PostgreSQL; where it may listen, and who is there already."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.helpers.paths import ROOT
from tests.helpers.service import free_port, long_stage, make_workspace, until
from world2act.processes.dvc_command import stage_environment

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in stage_environment().items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
        "DO_NOT_TRACK": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "flows.serve"],
        cwd=folder / "workspace",
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until_served(service: subprocess.Popen[str]) -> None:
    assert service.stdout is not None
    said = []
    for line in service.stdout:
        said.append(line)
        if "Ctrl-C ends both" in line:
            return
    pytest.fail("".join(said))


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a database on a PostgreSQL server of the test's own."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed")
    port = free_port()
    # not in pytest's folder, which is closed to others: as root, the server has to run as its own user
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        as_owner: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            as_owner = ["runuser", "-u", "postgres", "--"]
        make = ["initdb", "--pgdata", f"{folder}/data", "--username", "prefect", "--auth", "trust"]
        serve = ["postgres", "-D", f"{folder}/data", "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        make[0], serve[0] = (str(POSTGRES[-1] / name) for name in ("initdb", "postgres"))
        subprocess.run([*as_owner, *make], check=True, capture_output=True, cwd=folder)
        with subprocess.Popen([*as_owner, *serve], cwd=folder, stderr=subprocess.DEVNULL) as server:
            until(lambda: _listens(port))
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
            for each in psutil.Process(server.pid).children() or [server]:
                each.send_signal(signal.SIGINT)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_serves_the_pipeline_on_postgresql_with_a_key_and_ends_whole(tmp_path: Path, database: str) -> None:
    root = make_workspace(tmp_path / "workspace")
    port = free_port()
    variables = {
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": "anna:a long secret",
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
    }
    service = start(tmp_path, **variables)
    wait_until_served(service)
    api = f"http://127.0.0.1:{port}/api"
    assert httpx.get(f"{api}/deployments/name/pipeline/pipeline").status_code == 401
    with httpx.Client(base_url=api, auth=("anna", "a long secret"), timeout=30) as client:
        deployment = client.get("/deployments/name/pipeline/pipeline").json()
        client.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).raise_for_status()
        stage = long_stage(root)
        pools = {pool["name"] for pool in client.post("/work_pools/filter", json={}).json()}
        assert pools == {path.stem for path in (ROOT / "infra/work_pools").glob("*.json")}
        # a second one says who is there, and disturbs nothing
        second = start(tmp_path, **variables)
        assert "listens there" in second.communicate(timeout=120)[0] and second.returncode == 1
        assert len(client.post("/automations/filter", json={}).json()) == 1
    assert not (tmp_path / "prefect/prefect.db").exists(), "SQLite is not in use"
    parts = psutil.Process(service.pid).children(recursive=True)
    service.send_signal(signal.SIGINT)
    assert service.wait(timeout=60) == 0
    until(lambda: not any(each.is_running() for each in [*parts, stage]), 10, "something goes on behind it")


def test_listens_beyond_loopback_only_with_a_key(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    refused = start(tmp_path, PREFECT_SERVER_API_HOST="0.0.0.0")
    said = refused.communicate(timeout=120)[0]
    assert refused.returncode == 1 and "PREFECT_SERVER_API_AUTH_STRING" in said, said


def test_says_who_holds_the_port(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = start(tmp_path, PREFECT_SERVER_API_PORT=str(taken.getsockname()[1]))
        said = refused.communicate(timeout=120)[0]
    assert refused.returncode == 1 and f"process {os.getpid()} listens there" in said, said


def test_every_deployment_says_when_where_and_how_many() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    for each in deployments:
        assert each["description"] and each["tags"] and each["work_pool"]["name"], each["name"]
        source, function = each["entrypoint"].split(":")
        assert f"def {function}(" in (ROOT / source).read_text()
        for schedule in each.get("schedules", []):
            assert schedule["timezone"] == "UTC" and len(schedule["cron"].split()) == 5
            assert each["concurrency_limit"]["limit"] == 1
    scheduled = {each["name"] for each in deployments if "schedules" in each}
    assert scheduled == {"pipeline", "ingest", "check_release", "collect_garbage"}
