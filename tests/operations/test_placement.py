"""A stage on a work pool: a worker with a workspace of its own, and a real S3 server between the two."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from flows.set_up import WORK_POOLS
from tests.helpers.ceph import S3
from tests.helpers.paths import ROOT
from tests.helpers.service import Service, ran, until
from world2act.processes.dvc_command import dvc_command

PIPELINE = "pipeline/pipeline"
CONFIGURATIONS = {
    "process": ProcessJobConfiguration,
    "docker": DockerWorkerJobConfiguration,
    "kubernetes": KubernetesWorkerJobConfiguration,
}


@pytest.fixture
def root(service: Service, s3: S3) -> Iterator[Path]:
    """The workspace with a bucket as its remote, and a worker that may use it."""
    service.clean()
    before = dict(service.environment)
    service.environment |= s3.environment() | {"WORLD2ACT_STORE": f"s3://{s3.make_bucket()}/store"}
    service.kill_worker()
    service.start_worker()
    yield service.root
    service.environment = before
    service.kill_worker()
    service.start_worker()


def dvc(service: Service, root: Path, *arguments: str) -> str:
    done = subprocess.run(dvc_command(*arguments), cwd=root, env=service.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_here(service: Service, root: Path, **parameters: object) -> str:
    """The flow in a process of its own; what it printed, its last state included."""
    script = "import json, sys; from flows.pipeline import pipeline; "
    script += "print(pipeline(**json.loads(sys.argv[1]), return_state=True))"
    command = [sys.executable, "-c", script, json.dumps(parameters)]
    done = subprocess.run(command, cwd=root, env=service.environment, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_placed_stage_runs_in_a_workspace_of_its_own_and_hands_back_what_it_wrote(
    service: Service, root: Path, tmp_path: Path
) -> None:
    run = service.run(PIPELINE, placement={"long": "process"}, pull=True, push=True)
    until(lambda: list(service.workspaces.glob("*/long.pid")), what="the placed stage did not start")
    (elsewhere,) = (path.parent for path in service.workspaces.glob("*/long.pid"))
    assert (elsewhere / "first.txt").read_text() == "first"
    (elsewhere / "go").touch()
    service.wait_for(run, "Completed", "Failed")
    assert service.state(run) == "Completed", service.log_tail()
    assert ran(root) == ["first", "last"] and ran(elsewhere) == ["long"]
    assert (root / "long.txt").read_text() == "long"
    assert "up to date" in dvc(service, root, "status")

    # a clone with nothing but dvc.lock gets all of it from the remote and runs nothing
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
    (clone / "dvc.lock").write_bytes((root / "dvc.lock").read_bytes())
    said = run_here(service, clone, pull=True)
    assert "3 stages are up to date" in said, said
    assert ran(clone) == [] and (clone / "last.txt").read_text() == "last"


@pytest.mark.slow
def test_placement_needs_committed_code_and_a_deployment(service: Service, root: Path) -> None:
    said = run_here(service, root, target="first", placement={"first": "nowhere"})
    assert "no deployment stage/nowhere" in said, said
    source = root / "stage.py"
    before = source.read_text()
    source.write_text(before + "\n# a change\n")
    said = run_here(service, root, target="first", placement={"first": "process"})
    source.write_text(before)
    assert "differs from HEAD: stage.py" in said, said
    assert ran(root) == []


def render(pool: str, **variables: object) -> Any:
    """What a worker of a pool would start, by Prefect's own classes."""
    template = json.loads((ROOT / WORK_POOLS / f"{pool}.json").read_text())
    kind = CONFIGURATIONS[pool.partition("-")[0]]
    configuration = asyncio.run(kind.from_template_and_values(template, variables))
    configuration.prepare_for_flow_run(FlowRun(name="a-run", flow_id=uuid4()))
    return configuration


def test_gpu_stages_ask_for_gpus_and_others_do_not() -> None:
    for pool, variables, gpus in (
        ("kubernetes", {}, None),
        ("kubernetes-gpu", {}, 1),
        ("kubernetes-gpu", {"gpus": 8}, 8),
    ):
        job = render(pool, **variables).job_manifest
        pod = job["spec"]["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert job["spec"]["backoffLimit"] == 0, "Prefect retries, not Kubernetes: two pods would write at once"
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        assert "{{" not in json.dumps(job)


def test_every_placement_has_its_work_pool() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    placements = {each["name"] for each in deployments if each["entrypoint"].endswith(":run_placed_stage")}
    assert placements == {path.stem for path in (ROOT / WORK_POOLS).glob("*.json")}
    assert all(each["work_pool"]["name"] in placements for each in deployments)


def test_no_template_holds_a_credential_and_each_says_it_lives() -> None:
    for path in (ROOT / WORK_POOLS).glob("*.json"):
        environment = render(path.stem).env
        assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert not any("SECRET" in name or "KEY" in name for name in environment), path
