"""What the pipeline outlives, on a real server and worker: a killed run, a lost server, a second run, the clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from service import Service, kill_tree, long_stage, ran, until

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


def test_cancelled_run_ends_its_stage(service: Service, root: Path) -> None:
    run = service.run(PIPELINE)
    stage = long_stage(root)
    service.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    gone(stage, 20)
    service.wait_for(run, "Cancelled")


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
