"""The flows publish, retrieve and collect_garbage, with a Prefect server and a store of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL

from flows.collect_garbage import collect_garbage
from flows.publish import publish
from flows.retrieve import retrieve
from flows.workspace import hold_workspace
from tests.helpers.release_pipeline import Pipeline, seeds, stored
from world2act.artifacts.registry import Registry

pytestmark = pytest.mark.usefixtures("prefect_server")


def run_of(state: State[Any]) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def table(state: State[Any], key: str) -> list[dict[str, Any]]:
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return next(json.loads(each.data) for each in found if each.flow_run_id == state.state_details.flow_run_id)


def test_published_promoted_retrieved_and_collected(pipeline: Pipeline, registry: Registry, tmp_path: Path) -> None:
    state = publish("policy", channel="prod", note="the first", return_state=True)
    assert state.is_completed() and state.message.endswith("policy@prod is at v1"), state.message
    assert run_of(state).name == "publish policy to prod"
    rows = {row[""]: row["release"] for row in table(state, "world2act-release-policy")}
    assert rows["version"] == "v1" and rows["success"] == "base 40%  post_train 60%  random 0%"

    state = retrieve("policy@prod", str(tmp_path / "robot"), return_state=True)
    assert state.is_completed(), state.message
    assert run_of(state).name == f"get policy@prod into {tmp_path / 'robot'}"
    shown = {row["file"]: row["sha256"] for row in table(state, "world2act-retrieved-policy")}
    artifact = pipeline.root / "artifacts/post_train"
    assert shown.keys() == {path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()}
    for path in shown:
        assert (tmp_path / "robot" / path).read_bytes() == (artifact / path).read_bytes()

    pipeline.set(post_train=seeds(1, 0, 0, 0)).repro().push()
    pipeline.set(post_train=seeds(0, 0, 0, 0)).repro()
    before = stored(registry, "files/")
    state = collect_garbage(grace_days=-1, return_state=True)
    assert state.is_completed() and run_of(state).name == "look for garbage" and stored(registry, "files/") == before
    found = table(state, "world2act-garbage")[-1]
    state = collect_garbage(dry_run=False, grace_days=-1, return_state=True)
    assert run_of(state).name == "delete garbage"
    assert len(before) - len(stored(registry, "files/")) == found["objects"] > 0


def test_what_is_not_fit_ends_failed_with_one_message(pipeline: Pipeline, registry: Registry, tmp_path: Path) -> None:
    pipeline.set(post_train=seeds(9, 0, 0, 0))
    with hold_workspace("another run", 0):
        assert publish(return_state=True).name == "Workspace busy"
    states = [
        (publish(return_state=True), "BadInput: dvc.lock: post_train\n  found:    params.yaml"),
        (retrieve("policy@prod", str(tmp_path / "robot"), return_state=True), "NotFound: "),
    ]
    assert registry.store.put_new("releases/policy/versions/v000001.json", b"no release")
    states.append((collect_garbage(return_state=True), "Tampered: "))
    for state, message in states:
        assert state.is_failed() and state.message.startswith(message), state.message
    done = pipeline.attempt(sys.executable, "-m", "flows.publish", env={"PREFECT_API_URL": PREFECT_API_URL.value()})
    assert done.returncode == 1 and states[0][1] in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "robot").exists() and stored(registry, "files/") == {}
