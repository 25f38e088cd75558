"""What the pipeline outlives, on a real server and worker: a killed run, a lost server, a second run, the clock."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.graph import read_graph
from tests.helpers.clone import make_clone
from tests.helpers.service import Service, kill_tree, long_stage, ran, running_service, until, write_deployments

PIPELINE = "pipeline/pipeline"


@pytest.fixture
def root(service: Service) -> Path:
    """The workspace, as if nothing had run in it yet."""
    service.clean()
    return service.root


def gone(process: psutil.Process, timeout_s: float = 5) -> None:
    until(lambda: not process.is_running(), timeout_s, f"{process} lives on")


def test_killed_run_takes_its_stage_along_and_the_next_does_what_was_left(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    stage = long_stage(root)
    flow_run = next(each for each in stage.parents() if "prefect" in " ".join(each.cmdline()))
    flow_run.kill()
    gone(stage)
    service.wait_for(run, "Crashed")
    (root / "go").touch()
    again = service.run(PIPELINE)
    service.wait_for(again, "Completed")
    assert ran(root) == ["first", "long", "long", "last"]


@pytest.mark.slow
def test_cancelled_run_ends_its_stage(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    stage = long_stage(root)
    service.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    gone(stage, 20)
    service.wait_for(run, "Cancelled")


@pytest.mark.slow
def test_second_run_of_the_deployment_waits_and_finds_nothing_to_do(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    long_stage(root)
    second = service.run(PIPELINE)  # what a schedule does that falls due now
    service.wait_for(second, "AwaitingConcurrencySlot")
    (root / "go").touch()
    service.wait_for(run, "Completed")
    service.wait_for(second, "Completed")
    assert ran(root) == ["first", "long", "last"]


def test_second_run_in_one_workspace_is_refused_or_waits(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    name = service.call("GET", f"/flow_runs/{run}")["name"]
    long_stage(root)
    call = "pipeline(wait_for_workspace_s=float(sys.argv[1]), return_state=True)"
    script = f"import sys; from flows.pipeline import pipeline; print({call})"
    command = [sys.executable, "-c", script]
    refused = subprocess.run([*command, "0"], cwd=root, env=service.environment, capture_output=True, text=True)
    assert "Workspace busy" in refused.stdout and f"run {name} (process " in refused.stdout, refused.stdout
    waiting = subprocess.Popen([*command, "60"], cwd=root, env=service.environment, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert f"run {name}" in waiting.stdout.readline()
    (root / "go").touch()
    service.wait_for(run, "Completed")
    assert "3 stages are up to date" in waiting.communicate(timeout=60)[0]
    assert ran(root) == ["first", "long", "last"]


@pytest.mark.slow
def test_server_that_restarts_in_mid_run_costs_nothing(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    long_stage(root)
    assert service.server is not None
    kill_tree(service.server)
    (root / "go").touch()
    time.sleep(3)  # the stage ends, and the next begins, without a server
    service.start_server()
    service.wait_for(run, "Completed", timeout_s=180)
    assert ran(root) == ["first", "long", "last"]


@pytest.mark.slow
def test_run_whose_worker_died_with_it_gives_its_slot_back(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    stage = long_stage(root)
    until(lambda: any(each["event"] == "prefect.flow-run.heartbeat" for each in service.events(run)))
    service.kill_worker()
    gone(stage)
    assert service.state(run) == "Running", "nobody could tell the server"
    (root / "go").touch()
    service.start_worker()
    again = service.run(PIPELINE)
    service.wait_for(again, "Completed", timeout_s=400)
    assert service.state(run) == "Crashed"
    assert ran(root) == ["first", "long", "long", "last"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_worker_killed_in_each_stage_of_the_pipeline(
    tmp_path: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_clone(tmp_path).root
    # the slot of a run that died is free only after its heartbeat is missed, which the test above waits for
    write_deployments(root, "concurrency_limit")
    monkeypatch.chdir(root)
    stages = list(read_graph())
    interrupted: Counter[str] = Counter()
    with running_service(tmp_path, root, prefect_database) as service:
        for stage in (each for each in stages if not each.startswith("validate_")):
            run = service.run(PIPELINE)
            until(lambda stage=stage: runs(service, stage), 1800, f"{stage} did not start: {service.log_tail()}")
            killed = service.kill_worker()
            interrupted.update(each for each in stages if any(line.endswith(f" {each}") for line in killed))
            assert not survivors(root), "a process of a stage outlived its run"
            service.start_worker()
        run = service.run(PIPELINE)
        service.wait_for(run, "Completed", "Failed", timeout_s=1800)
        assert service.state(run) == "Completed", service.log_tail()
        begun = Counter(re.findall(r"Running stage '(\w+)'", Path(service.log.name).read_text()))
    assert set(begun) == set(stages)
    for stage in stages:
        assert begun[stage] <= 1 + interrupted[stage], f"{stage} was done and ran again"


def runs(service: Service, stage: str) -> bool:
    """Whether a stage's own process runs under the worker."""
    assert service.worker is not None
    for each in psutil.Process(service.worker.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if f"stages.{stage}" in each.cmdline():
                return True
    return False


def survivors(root: Path) -> list[str]:
    """Processes that work in a folder, a moment after they should have ended."""
    time.sleep(1)
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if each.pid != os.getpid() and Path(each.cwd()) == root and "server" not in each.cmdline():
                found.append(" ".join(each.cmdline()))
    return found
