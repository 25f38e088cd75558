"""Shards: computed anywhere, in any number, they give the stage's own bytes; what is there is not computed again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from dvc.repo import Repo
from prefect.client.orchestration import get_client

from flows.spread import SHARDED, spread_stage
from tests.helpers.clone import Clone
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput, World2ActError
from world2act.core.sharding import parse_shard, shard_identity
from world2act.core.storage import sha256
from world2act.processes.dvc_command import stage_environment
from world2act.world_model.imagining.imagination import independent_rollouts, rollout_batches

UNITS = 6
# a stage of six units that says which it computes, and may be told to wait, fail or be killed in one of them
TOY = f"""
import os, signal, time
from pathlib import Path

import numpy as np

from world2act.core.sharding import run_sharded
from world2act.core.storage import write_json


def compute(params, units):
    for unit in units:
        with Path("computed.txt").open("a") as stream:
            stream.write(f"{{unit}}\\n")
        while Path(f"wait-{{unit}}").exists():
            time.sleep(0.1)
        if Path(f"kill-{{unit}}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        yield {{"value": np.array([unit, int(Path("input.txt").read_text())])}}


def assemble(params, computed):
    write_json("artifacts/toy.json", [arrays["value"].tolist() for arrays in computed])
    return {{"units": {UNITS}}}


if __name__ == "__main__":
    run_sharded("latents", lambda params: range({UNITS}), compute, assemble)
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of that one stage, in a repository of its own."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init().close()
    stage = {
        "cmd": "exec python -m stages.latents",
        "deps": ["input.txt", "stages/latents.py"],
        "params": ["latents"],
        "outs": [{"artifacts/toy.json": {"persist": True}}],
    }
    Path("dvc.yaml").write_text(json.dumps({"stages": {"latents": stage}}))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("stages").mkdir()
    Path("stages/__init__.py").touch()
    Path("stages/latents.py").write_text(TOY)
    Path("input.txt").write_text("7")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.latents", *arguments]
    return subprocess.run(command, env=stage_environment() | environment, capture_output=True, text=True)


def computed() -> list[int]:
    """The units that were computed since the last call."""
    path = Path("computed.txt")
    lines = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return [int(line) for line in lines]


def result() -> list[list[int]]:
    return json.loads(Path("artifacts/toy.json").read_text())


EXPECTED = [[unit, 7] for unit in range(UNITS)]


def test_the_stage_goes_on_where_shards_and_kills_left_it(workspace: Path) -> None:
    done = run("--shard", "2/4")
    assert done.returncode == 0 and "computed 2 of 2 units" in done.stdout, done.stderr
    assert computed() == [1, 5]
    Path("kill-3").touch()
    assert run("--shard", "1/1").returncode == -signal.SIGKILL
    assert computed() == [0, 2, 3]
    assert not Path("artifacts").exists()
    Path("kill-3").unlink()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], env=stage_environment(), check=True)
    assert computed() == [3, 4] and result() == EXPECTED
    assert json.loads(Path("metrics/latents/metrics.json").read_text()) == {"units": UNITS}
    assert not list(Path("runs").rglob("*.safetensors")), "shards outlived the artifact"


@pytest.mark.parametrize("changed", ["input", "code", "params", "threads"])
def test_a_shard_of_other_inputs_is_not_reused(workspace: Path, changed: str) -> None:
    before, threads = shard_identity("latents"), torch.get_num_threads()
    if changed == "input":
        Path("input.txt").write_text("8")
    if changed == "code":
        Path("stages/latents.py").write_text(TOY + "\nMORE = 1\n")
    if changed == "params":
        text = Path("params.yaml").read_text()
        Path("params.yaml").write_text(re.sub(r"latents: \{batch_size: \d+\}", "latents: {batch_size: 3}", text))
        assert Path("params.yaml").read_text() != text
    if changed == "threads":
        torch.set_num_threads(threads + 1)
    try:
        assert shard_identity("latents") != before
    finally:
        torch.set_num_threads(threads)


def test_what_the_stage_does_not_read_changes_no_fingerprint(workspace: Path) -> None:
    before, text = shard_identity("latents"), Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("seed: 0", "seed: 5"))
    assert Path("params.yaml").read_text() != text
    assert shard_identity("latents") == before


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="K/N"):
        parse_shard(text)


def test_rollouts_that_share_a_batch_stay_together() -> None:
    lift, place, push = ["lift", "go", "place"], ["place"], ["push", "go"]
    prompts = [lift, place, push, lift, place, push, lift, place]
    assert independent_rollouts(prompts, 1) == [[i] for i in range(len(prompts))]
    for size in (1, 2, 3, 100):
        groups = independent_rollouts(prompts, size)
        assert sorted(i for group in groups for i in group) == list(range(len(prompts)))
        apart = [
            [group[row] for row in rows]
            for group in groups
            for rows in rollout_batches([prompts[i] for i in group], size)
        ]
        assert sorted(apart) == sorted(rollout_batches(prompts, size)), "a group is batched differently apart"
    assert independent_rollouts(prompts, 2) == [[0, 2, 3, 5], [1, 4], [6], [7]]


def task_states() -> dict[str, str]:
    with get_client(sync_client=True) as client:
        return {task.name: task.state_name for task in client.read_task_runs()}


def wait_for(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


def test_a_spread_survives_a_worker_and_computes_only_what_is_missing(prefect_server: None, workspace: Path) -> None:
    """A shard dies in its second unit; the other ends; a second spread computes what is left, and no more."""
    Path("kill-3").touch()
    with pytest.raises(World2ActError, match=r"1 of 2 shards failed: 2/2\n.*exit status -9"):
        spread_stage("latents", 2)
    assert sorted(computed()) == [0, 1, 2, 3, 4]
    names = {"latents 1/2": "Completed", "latents 2/2": "Failed"}
    wait_for(lambda: names.items() <= task_states().items())
    Path("kill-3").unlink()
    spread_stage("latents", 2)
    assert computed() == [3, 5]
    assert run().returncode == 0
    assert computed() == [] and result() == EXPECTED


@pytest.mark.slow
def test_a_killed_dask_worker_loses_only_its_shard_of_the_moment(prefect_server: None, workspace: Path) -> None:
    """The cluster gives its shard to another worker, and the shard's own process ends with the worker."""
    from distributed import Client, LocalCluster

    Path("wait-0").touch()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        spread = threading.Thread(target=spread_stage, args=("latents", 2, cluster.scheduler_address))
        spread.start()
        wait_for(lambda: Path("computed.txt").exists() and 0 in computed())
        (shard,) = (process for process in psutil.process_iter() if _runs_shard(process, "1/2", workspace))
        worker = shard.parent()
        assert worker.pid in client.run(os.getpid).values()
        worker.kill()
        wait_for(lambda: not shard.is_running())
        Path("wait-0").unlink()
        spread.join(timeout=120)
        assert not spread.is_alive()
    computed()
    assert run().returncode == 0 and result() == EXPECTED
    assert computed() == []


def _runs_shard(process: psutil.Process, shard: str, workspace: Path) -> bool:
    try:
        return process.cmdline()[-2:] == ["--shard", shard] and process.cwd() == str(workspace)
    except psutil.Error:
        return False


def test_only_stages_over_episodes_can_be_spread(workspace: Path) -> None:
    with pytest.raises(BadInput, match="latents, rollouts, evaluate"):
        spread_stage("demos", 2)
    for stage in SHARDED:
        assert re.search(r"run_(sharded|shares)\(", (ROOT / f"stages/{stage}.py").read_text())


@pytest.mark.parametrize(
    "stage", ["latents", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("rollouts", "evaluate"))]
)
def test_shards_give_the_bytes_of_the_whole(tiny_run: Clone, tmp_path: Path, stage: str) -> None:
    """One of two shards first, the other by the stage itself, against the flow's run in one piece."""
    whole = tiny_run.root / "artifacts" / stage
    clone = Clone(tmp_path / "a clone")
    shutil.copytree(tiny_run.root, clone.root, ignore=shutil.ignore_patterns(".venv"))
    shutil.rmtree(clone.root / "artifacts" / stage)
    clone.must("python", "-m", f"stages.{stage}", "--shard", "2/2")
    files = [path for path in (clone.root / "runs" / stage).rglob("*") if path.is_file()]
    clone.must("python", "-m", f"stages.{stage}")
    assert files and sha256(clone.root / "artifacts" / stage) == sha256(whole)
