"""The flow that checks a release, over a real store, a real simulator, a real policy and a real Prefect server."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State
from prefect.events.filters import EventFilter, EventNameFilter
from world2act_client.manifest import MANIFEST_TYPE, POINTER_TYPE, FileEntry, Manifest, Pointer, digest_of
from world2act_client.signing import load_signing_key, make_key_pair, seal
from world2act_client.store import Store, manifest_key, object_key, pointer_key

from flows.check_release import REGRESSED_EVENT, check_release
from tests.helpers.ceph import S3
from tests.helpers.gr00t_policies import tiny_network, tiny_processor
from tests.helpers.paths import ROOT
from world2act.core.errors import BadInput
from world2act.core.params import compose
from world2act.evaluation.regression import compare, compare_with_record, read_record
from world2act.evaluation.rollout import EpisodeResult
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.policy import save_pretrained

pytestmark = pytest.mark.usefixtures("prefect_server")
TASK, SEEDS, CREATED = "drawer-close", range(500, 506), "2026-01-01T00:00:00+00:00"
TINY = tiny_network(state_dim=4, action_dim=4, horizon=8, layers=1, steps=1)


def save_policy(path: Path, push: float) -> Path:
    """A GR00T policy whose actions move around a push along +y: with 1.0 it shuts the drawer, with -1.0 never."""
    path.mkdir()
    centre = np.array([0, push, -0.3 * push, -1], np.float32)
    spread = np.array([0.05, 0.05, 0.05, 0], np.float32)
    processor = tiny_processor(
        TINY,
        cameras=["corner2"],
        image_size=32,
        instructions=["push the drawer shut"],
        actions=np.stack([centre - spread, centre + spread]),
        proprio=np.array([[-2] * 4, [2] * 4]),
    )
    save_pretrained(path, TINY, Gr00tModel(TINY, seed=3).state_dict(), processor)
    return path


def protocol() -> dict[str, Any]:
    values = compose("default", ROOT)
    values["demos"] |= {"image_size": 32}
    values["evaluate"] |= {"environments": 2, "max_steps": 40}
    return values


def record(*successes: bool | None) -> dict[str, Any]:
    return {"post_train": [{"task": TASK, "seed": s, "success": one} for s, one in zip(SEEDS, successes, strict=True)]}


def manifest_of(files: tuple[FileEntry, ...], version: int, found: Mapping[str, Any], params: Any = None) -> Manifest:
    git = {"revision": "0" * 40, "url": None, "modified": []}
    return Manifest("policy", version, CREATED, git, params or protocol(), [], {}, {}, found, files)


class Shop:
    """A store, and the keys of its publisher."""

    def __init__(self, url: str, keys: tuple[Path, Path]) -> None:
        self.store, self._key = Store(url), load_signing_key(keys[0])

    def release(self, policy: Path, version: int, found: Mapping[str, Any]) -> Manifest:
        """Publish a folder and make it prod."""
        entries = []
        for path in sorted(file for file in policy.rglob("*") if file.is_file()):
            content = path.read_bytes()
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            name = path.relative_to(policy).as_posix()
            entries.append(FileEntry(name, len(content), md5, hashlib.sha256(content).hexdigest()))
            self.store.put_new(object_key(md5), content)
        manifest = manifest_of(tuple(entries), version, found)
        payload = manifest.to_payload()
        assert self.store.put_new(manifest_key("policy", version), seal(MANIFEST_TYPE, payload, self._key))
        pointer = Pointer("policy", "prod", version, version, digest_of(payload), CREATED, "")
        key = pointer_key("policy", "prod", version)
        assert self.store.put_new(key, seal(POINTER_TYPE, pointer.to_payload(), self._key))
        return manifest

    def evaluations(self) -> dict[str, dict[str, Any]]:
        return {key: json.loads(self.store.read(key)) for key, *_ in self.store.list("evaluations/")}


@pytest.fixture
def shop(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    keys = make_key_pair(tmp_path / "keys")
    url = f"s3://{s3.make_bucket()}/robots"
    settings = {"STORE": url, "TRUSTED_KEYS": keys[1], "CACHE": tmp_path / "cache"}
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    for name, value in settings.items():
        monkeypatch.setenv(f"WORLD2ACT_{name}", str(value))
    monkeypatch.delenv("WORLD2ACT_SIGNING_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    return Shop(url, keys)


def run(reference: str = "policy@prod") -> State:
    return check_release(reference, return_state=True)


def events(since: datetime, wait_s: float) -> list[dict[str, Any]]:
    """The payloads of the regressions that the server knows."""
    chosen = EventFilter(event=EventNameFilter(name=[REGRESSED_EVENT]))
    deadline = time.monotonic() + wait_s
    with get_client(sync_client=True) as client:
        while True:
            body = {"filter": chosen.model_dump(mode="json", exclude_unset=True)}
            found = client._client.post("/events/filter", json=body).json()["events"]
            found = [event for event in found if datetime.fromisoformat(event["occurred"]) >= since]
            if found or time.monotonic() > deadline:
                return [event["payload"] | event["resource"] for event in found]
            time.sleep(0.5)


def test_a_policy_that_does_what_its_record_says_and_one_that_does_not(shop: Shop, tmp_path: Path) -> None:
    started = datetime.now(UTC)
    good = save_policy(tmp_path / "good", push=1.0)
    draft = manifest_of((), 1, record(*[True] * len(SEEDS)))
    truth = compare_with_record(good, draft, workers=2)
    assert truth.now.successes >= 5, "the test's policy has to shut the drawer"
    found = record(*(episode["success"] for episode in truth.episodes))

    shop.release(good, 1, found)
    state = run()
    assert state.is_completed() and "policy@prod is v1" in str(state.message)
    (key, kept), *others = shop.evaluations().items()
    assert key.startswith("evaluations/policy/v000001/") and not others
    assert kept["regressed"] is False and kept["difference"] == 0 and kept["pairs"] == len(SEEDS)
    assert [e["success"] for e in kept["episodes"]] == [e["recorded"] for e in kept["episodes"]]
    assert {"metaworld", "mujoco", "torch"} == set(kept["packages"])

    shop.release(save_policy(tmp_path / "broken", push=-1.0), 2, found)
    state = run()
    assert state.is_failed() and state.name == "Regressed" and "v2" in str(state.message)
    (event,) = events(started, wait_s=20)
    assert event["prefect.resource.id"] == "world2act.release.policy.v2" and event["success"] < 0.2
    assert event["recorded"] == truth.now.rate and event["high"] < 0 and event["errors"] == 0
    assert event["evaluation"].startswith(f"{shop.store.url}/evaluations/policy/v000002/")
    assert len(shop.evaluations()) == 2
    chosen = ArtifactFilter(key=ArtifactFilterKey(any_=["world2act-evaluation-policy"]))
    with get_client(sync_client=True) as client:
        tables = [json.loads(artifact.data) for artifact in client.read_artifacts(artifact_filter=chosen)]
    assert all([row["task"] for row in table] == [TASK, "all"] for table in tables)
    assert min(row["success"] for table in tables for row in table) < truth.now.successes
    assert all(row["pairs"] == len(SEEDS) and row["lost"] == 0 for table in tables for row in table)


def test_what_is_no_regression_says_so_and_emits_nothing(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = datetime.now(UTC)
    policy = save_policy(tmp_path / "policy", push=-1.0)
    assert "no such channel" in str(run().message)
    shop.release(policy, 1, {})
    assert "record" in str(run().message) and "compared with the incumbent" in str(run().message)
    # the simulator cannot load its model: no episode of the policy says anything
    shop.release(policy, 2, record(*[True] * len(SEEDS)))
    monkeypatch.setenv("MUJOCO_GL", "egl-of-no-such-kind")
    state = run()
    assert state.is_failed() and state.name == "Failed" and "InfrastructureError" in str(state.message)
    assert not shop.evaluations() and not events(started, wait_s=2)


def test_an_episode_that_was_lost_is_in_no_pair() -> None:
    found = record(True, True, False, None, True, True)["post_train"]
    lost = {SEEDS[0]: "died"}
    results = [
        EpisodeResult(TASK, seed, None if seed in lost else False, np.zeros((1, 4), np.float32), lost.get(seed, ""))
        for seed in SEEDS
    ]
    comparison = compare(found, results, 0.95)
    assert (comparison.errors, comparison.difference.count, comparison.recorded.successes) == (1, 4, 3)
    assert not compare(found, [replace(result, success=None) for result in results], 0.95).regressed


def test_a_manifest_without_a_record_or_a_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"policy v1: record\n.*\n.*post_train"):
        read_record(manifest_of((), 1, {"base": [{"task": TASK, "seed": 1, "success": True}]}))
    with pytest.raises(BadInput, match="bridge"):
        read_record(replace(manifest_of((), 1, {}), name="bridge"))
    params = protocol()
    del params["demos"]["cameras"]
    with pytest.raises(BadInput, match=r"params\.demos\.cameras"):
        compare_with_record(tmp_path, manifest_of((), 1, record(*[True] * 6), params), 1)
