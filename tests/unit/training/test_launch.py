"""Training on two nodes: one machine's two processes and two nodes of one process each end with the same weights."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.training.launch import read_hostfile, read_node_rank

TOY = f"""
import runpy, sys
if __name__ == "__main__":
    sys.argv = ["toy", "zero.json"]
    runpy.run_path({str(ROOT / "tests/helpers/toy_training.py")!r}, run_name="__main__")
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "shared")


def make_workspace(folder: Path) -> Path:
    """A folder with one training stage, stages.toy, for two ranks, and a hostfile of two addresses of this machine."""
    (folder / "stages").mkdir(parents=True)
    (folder / "stages/__init__.py").touch()
    (folder / "stages/toy.py").write_text(TOY)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "infra/deepspeed/cpu.json", folder / "zero.json")
    (folder / "hosts").write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    return folder


def start(folder: Path, node: int | None = None, **environment: str) -> subprocess.Popen[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if node is not None:
        variables |= {"WORLD2ACT_HOSTFILE": "hosts", "WORLD2ACT_NODE_RANK": str(node)}
    variables |= environment
    command = [sys.executable, "-m", "world2act.training.launch", "stages.toy"]
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=200)
    return process.returncode, said


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_nodes(folder: Path, **environment: str) -> list[tuple[int, str]]:
    """Start the second node, then the main one; both to their ends."""
    port = free_port()
    nodes = [start(folder, node, MASTER_PORT=port, **environment) for node in (1, 0)]
    return [finish(node) for node in reversed(nodes)]


def outcome(folder: Path) -> bytes:
    return (folder / "result.safetensors").read_bytes()


@pytest.mark.slow
def test_two_nodes_end_as_one_machine_even_after_a_kill(workspace: Path, tmp_path: Path) -> None:
    alone = make_workspace(tmp_path / "alone")
    code, said = finish(start(alone))
    assert code == 0, said
    (main, _), (other, other_said) = run_nodes(workspace, KILL_AT="17")
    assert main not in (0, 2) and other not in (0, 2), "a rank was killed, and a node did not say so"
    assert "rerun to go on from its last checkpoint" in other_said
    assert not (workspace / "result.safetensors").exists()
    (run,) = (workspace / "runs/toy").iterdir()
    assert (run / "10/meta.json").exists()
    for code, said in run_nodes(workspace):
        assert code == 0, said
    assert outcome(workspace) == outcome(alone)


@pytest.mark.slow
def test_a_node_with_other_data_is_refused(workspace: Path) -> None:
    port = free_port()
    nodes = [start(workspace, node, MASTER_PORT=port, IDENTITY=str(node)) for node in (1, 0)]
    for code, said in map(finish, nodes):
        assert code != 0 and "let the nodes share one workspace folder" in said, said
    assert not (workspace / "runs").exists()


def test_a_node_waits_for_the_main_one_to_train(workspace: Path) -> None:
    port = free_port()
    other = start(workspace, 1, MASTER_PORT=port)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == f"stages.toy: waiting for the main node at 127.0.0.1:{port}\n"
        time.sleep(3)
        assert other.poll() is None
    finally:
        other.kill()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "nothing"),
        ("", "empty"),
        ("node-0 slots=two\n", "bad entry: node-0 slots=two"),
        ("node-0 slots=1\nnode-0 slots=1\n", "multiple entries for node-0"),
        ("node-0 slots=1\nnode-1 slots=2\n", "3 processes"),
    ],
)
def test_a_hostfile_that_does_not_fit_is_refused(tmp_path: Path, text: str | None, found: str) -> None:
    path = tmp_path / "hosts"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=found) as caught:
        read_hostfile(path, 2)
    assert str(path) in str(caught.value)


def test_a_hostfile_names_the_nodes_in_order(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# two machines\nb.train slots=3\n\na.train slots=1\n")
    assert list(read_hostfile(tmp_path / "hosts", 4).items()) == [("b.train", 3), ("a.train", 1)]


@pytest.mark.parametrize("rank", ["2", "-1", "one", ""])
def test_a_node_that_the_hostfile_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setenv("WORLD2ACT_NODE_RANK", rank)
    for nodes in ({"a": 1, "b": 1}, {}):
        with pytest.raises(BadInput, match="WORLD2ACT_NODE_RANK"):
            read_node_rank(nodes)


def test_a_bad_hostfile_ends_the_command_with_one_message(workspace: Path) -> None:
    code, said = finish(start(workspace, 0, WORLD2ACT_HOSTFILE="elsewhere"))
    assert code == 2 and said.startswith("elsewhere\n  found:    nothing\n") and said.count("\n") == 4, said
