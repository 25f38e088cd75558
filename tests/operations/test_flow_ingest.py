"""The ingest flow over a real store and a real Prefect server: its table, its event, one run a data version."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State

from flows.graph import read_graph
from flows.ingest import PIPELINE, ingest
from tests.helpers.ceph import S3
from tests.helpers.recordings import episodes, files_of, make_workspace, write_upload
from world2act.core.storage import read_json

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def bucket(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD2ACT_STORE", raising=False)
    bucket = s3.make_bucket()
    monkeypatch.chdir(make_workspace(tmp_path / "workspace", f"s3://{bucket}/store"))
    return bucket


def put(s3: S3, bucket: str, path: Path, *names: str) -> None:
    for name in names or files_of(path):
        s3.client().upload_file(str(path / name), bucket, f"store/incoming/{path.name}/{name}")


def run(**parameters: object) -> State:
    return ingest(**parameters, return_state=True)


def started(client: SyncPrefectClient) -> list[FlowRun]:
    return [each for each in client.read_flow_runs() if each.deployment_id]


def table(client: SyncPrefectClient, state: State) -> str:
    chosen = ArtifactFilter(key=ArtifactFilterKey(any_=["world2act-ingest"]))
    (found,) = [
        each.data
        for each in client.read_artifacts(artifact_filter=chosen)
        if each.flow_run_id == state.state_details.flow_run_id
    ]
    return found


def test_a_new_version_runs_the_pipeline_once(s3: S3, bucket: str, client: SyncPrefectClient, tmp_path: Path) -> None:
    assert run().is_completed() and not started(client)
    put(s3, bucket, write_upload(tmp_path / "good", episodes(0)))
    put(s3, bucket, write_upload(tmp_path / "slow", episodes(1)), "meta/info.json")
    put(s3, bucket, write_upload(tmp_path / "bad|pipe", episodes(1), info={"fps": 30}))
    state = run()
    assert state.is_failed() and f"no deployment {PIPELINE}" in str(state.message)
    assert read_json("data/ingested.json")["version"] == 1
    text = table(client, state)
    assert "| incoming/good | taken | 1 episodes, labelled |" in text
    assert "| incoming/slow | waits | meta/stats.json has not arrived |" in text
    assert r"| incoming/bad\|pipe | set aside |" in text and "found 30, expected 80" in text

    @flow(name=PIPELINE.partition("/")[0])
    def pipeline() -> None:
        raise AssertionError("only its runs are counted")

    name = PIPELINE.partition("/")[2]
    flow_id = client.create_flow(pipeline)
    client.create_deployment(flow_id, name)
    assert run(trigger=False).is_completed() and not started(client)
    assert run().is_completed()  # the version that the failed run had made
    (first,) = started(client)
    assert first.idempotency_key.startswith("data-v1-") and "data-v1" in first.tags
    assert run().is_completed() and len(started(client)) == 1
    Path("runs/ingest/triggered.json").unlink()  # as if it had died before it could note the trigger
    assert run().is_completed() and len(started(client)) == 1
    state = run()
    assert "set aside, before" in table(client, state) and "1 known before" not in str(state.message)
    put(s3, bucket, write_upload(tmp_path / "more", episodes(3)))
    assert run(commit=True).is_completed() and len(started(client)) == 2
    stage = {"cmd": "true", "deps": ["data/ingested.json"], "outs": ["demos.txt"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"demos": stage}}))
    assert read_graph("demos") == {"data/ingested.dvc": [], "demos": ["data/ingested.dvc"]}


def test_two_passes_at_once_do_not_meet(s3: S3, bucket: str, tmp_path: Path) -> None:
    put(s3, bucket, write_upload(tmp_path / "good", episodes(0)))
    Path(".dvc/tmp").mkdir(exist_ok=True)
    with Path(".dvc/tmp/world2act.run").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        state = run(trigger=False)
        assert state.is_failed() and state.name == "Workspace busy"
        assert read_json("data/ingested.json")["version"] == 0
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(run, trigger=False, wait_for_workspace_s=300) for _ in range(2)]
    said = sorted(str(each.result().message) for each in both)
    assert all(each.result().is_completed() for each in both)
    assert "1 taken" in said[1] and "nothing new; 1 known before" in said[0]


@pytest.mark.parametrize(("prefix", "named"), [("incoming", "ends with /"), ("/incoming/", "ends with /")])
def test_a_prefix_that_is_no_folder_is_refused(bucket: str, prefix: str, named: str) -> None:
    state = run(prefix=prefix, trigger=False)
    assert state.is_failed() and named in str(state.message)


def test_without_a_store_or_with_wrong_keys_it_says_so(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment(s3.wrong_keys()).items():
        monkeypatch.setenv(name, value)
    state = run()
    assert state.is_failed() and "Denied" in str(state.message) and "AWS_SECRET_ACCESS_KEY" in str(state.message)
    Path(".dvc/config").write_text("")
    state = run()
    assert state.is_failed() and "WORLD2ACT_STORE" in str(state.message)
    assert not json.loads(Path("data/ingested.json").read_text())["version"]
