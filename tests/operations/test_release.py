"""Releases from a small real pipeline, on a real S3 server: publish, promote, roll back, list, diff, pull."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dvc.exceptions import ReproductionError
from world2act_client.errors import Conflict, Denied, NotFound, ReleaseError
from world2act_client.releases import read_manifest, resolve
from world2act_client.store import Store, manifest_key, object_key, pointer_key

from tests.helpers.ceph import S3
from tests.helpers.release_pipeline import Pipeline, quietly, seeds, stored
from world2act.artifacts import channels
from world2act.artifacts.catalogue import compare, list_releases
from world2act.artifacts.objects import missing_objects
from world2act.artifacts.publish import publish
from world2act.artifacts.registry import Registry, open_registry
from world2act.core.errors import BadInput


def test_manifest_says_all_that_made_the_artifact(pipeline: Pipeline, registry: Registry) -> None:
    done = quietly()
    manifest, _ = resolve(registry.store, "policy@v1", registry.trusted)
    assert manifest == done.manifest and done.new and sum(stored(registry, "files/").values()) == done.moved
    for file in manifest.files:
        content = (pipeline.root / "artifacts/post_train" / file.path).read_bytes()
        assert registry.store.read(object_key(file.md5)) == content
    assert {file.path for file in manifest.files} == {*(f"part-{n}.bin" for n in range(4)), "deep/config.json"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert manifest.git == {"revision": head, "url": None, "modified": []}
    assert manifest.params == yaml.safe_load(Path("params.yaml").read_text())
    assert manifest.gates == {
        name: {"success": True, "failed": []} for name in ("base_policy", "evaluate", "post_train")
    }
    assert manifest.metrics["evaluate"] == {"success_base": 0.4, "success_post_train": 0.6, "success_random": 0.0}
    assert sum(episode["success"] for episode in manifest.record["post_train"]) == 6
    lock = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    assert {stage["stage"] for stage in manifest.lineage} == set(lock)
    for stage in manifest.lineage:
        for kind in ("deps", "outs"):
            of_lock = {entry["path"]: entry["md5"] for entry in lock[stage["stage"]].get(kind, [])}
            assert {entry["path"]: entry["md5"] for entry in stage[kind]} == of_lock


def test_base_policy_is_released_without_what_comes_after_it(pipeline: Pipeline) -> None:
    manifest = quietly("base-policy").manifest
    assert [stage["stage"] for stage in manifest.lineage] == ["base_policy", "validate_base_policy"]
    assert manifest.record == {} and set(manifest.gates) == {"base_policy"}


def test_nothing_is_stored_twice(pipeline: Pipeline, registry: Registry) -> None:
    pipeline.push()
    before = stored(registry)
    assert quietly().moved == 0
    after = stored(registry)
    assert set(after) - set(before) == {manifest_key("policy", 1)} and after.items() >= before.items()
    pipeline.set(post_train=seeds(0, 0, 7, 0)).repro()
    done = quietly()
    grown = {key: size for key, size in stored(registry, "files/").items() if key not in after}
    assert [file.path for file in done.manifest.files if object_key(file.md5) in grown] == ["part-2.bin"]
    listing = next(size for key, size in grown.items() if key.endswith(".dir"))
    assert len(grown) == 2 and done.moved == sum(grown.values()) == 5000 + listing
    again = quietly()
    assert not again.new and again.manifest == done.manifest
    assert stored(registry, "releases/").keys() == {manifest_key("policy", 1), manifest_key("policy", 2)}


def test_version_is_immutable(pipeline: Pipeline, registry: Registry) -> None:
    manifest = quietly().manifest
    before = registry.store.read(manifest_key("policy", 1))
    assert not registry.put_signed(manifest_key("policy", 1), manifest)
    with pytest.raises(registry.store.s3.exceptions.ClientError) as refused:
        registry.store.s3.put_object(
            Bucket=registry.store.bucket, Key=registry.store.key(manifest_key("policy", 1)), Body=b"x", IfNoneMatch="*"
        )
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert registry.store.read(manifest_key("policy", 1)) == before


def test_concurrent_publishers_get_a_version_each(pipeline: Pipeline, registry: Registry, tmp_path: Path) -> None:
    """Five at once: four with contents of their own, the fifth with the same as the fourth."""
    workspaces = [pipeline.copy(tmp_path / f"p{n}").set(post_train=seeds(min(n, 3), 0, 0, 0)).repro() for n in range(5)]
    started = [workspace.start("world2act", "publish", "policy") for workspace in workspaces]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    manifests = [release.manifest for release in list_releases(registry, "policy")]
    assert [manifest.version for manifest in manifests] in ([4, 3, 2, 1], [5, 4, 3, 2, 1])
    assert {manifest.params["post_train"]["seeds"][0] for manifest in manifests} == {0, 1, 2, 3}
    for newer, older in pairwise(manifests):
        assert newer.params != older.params
        assert not missing_objects(registry.store, {file.md5: file.size for file in newer.files})


def test_unfit_artifact_is_refused_and_leaves_nothing(pipeline: Pipeline, registry: Registry) -> None:
    def refused(match: str, name: str = "policy") -> None:
        with pytest.raises(BadInput, match=match):
            quietly(name)
        assert stored(registry) == {}

    refused("no 'polisy'", "polisy")
    pipeline.set(post_train=seeds(1, 0, 0, 0))
    refused(r"dvc.lock: post_train\n  found:    params.yaml")
    pipeline.set(red="post_train")
    with pytest.raises(ReproductionError):
        pipeline.repro()
    refused("reports/gates/post_train.json: success\n  found:    red: Every weight is finite.")
    Path("reports/gates/base_policy.json").unlink()
    refused("reports/gates/base_policy.json\n  found:    nothing")
    pipeline.set(red="", post_train={"rate": 3}).repro()
    refused("worse than the incumbent")
    pipeline.set(post_train={"rate": 4}).repro()
    assert quietly().new


def test_uncommitted_code_is_refused_or_named(pipeline: Pipeline, registry: Registry) -> None:
    with Path("stage.py").open("a") as stream:
        stream.write("# a change\n")
    Path("notes.txt").write_text("no stage reads this")
    pipeline.repro()
    with pytest.raises(BadInput, match=r"differs from HEAD: stage.py\n"):
        quietly()
    assert stored(registry) == {}
    assert quietly(allow_modified=True).manifest.git["modified"] == ["stage.py"]
    pipeline.commit()
    pipeline.run("git", "remote", "add", "origin", "https://me:secret@example.org/w2a.git")
    pipeline.set(post_train=seeds(1, 0, 0, 0)).repro()
    git = quietly().manifest.git
    assert git["modified"] == [] and git["url"] == "https://example.org/w2a.git"


def test_denied_upload_leaves_no_half_release(pipeline: Pipeline, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Store(pipeline.store).bucket
    admin = open_registry(pipeline.store, signing=True)
    user = s3.make_user()
    s3.allow(user, bucket, "s3:GetObject", "s3:ListBucket")
    for name, value in s3.environment(user).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ReleaseError, match="DVC could not"):
        quietly()
    s3.allow(user, bucket, "s3:PutObject", prefix="w2a/files/")
    with pytest.raises(Denied, match="releases/policy/versions"):
        quietly()
    assert stored(admin, "releases/") == {}
    s3.allow(user, bucket, "s3:PutObject", prefix="w2a/releases/")
    assert quietly().manifest.version == 1
    for name, value in s3.environment(s3.wrong_keys()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ReleaseError):
        quietly("base-policy")


def test_damaged_cache_is_not_published(pipeline: Pipeline, registry: Registry) -> None:
    lost = quietly("base-policy").manifest.files[-1]
    for file in Path(".dvc/cache").rglob(lost.md5[2:]):
        file.chmod(0o644)
        file.write_bytes(b"another content")
    with pytest.raises((BadInput, ReleaseError), match=r"damaged|up to date"):
        quietly("base-policy")


def test_channels_move_by_a_log(pipeline: Pipeline, registry: Registry) -> None:
    for seed in range(3):
        pipeline.set(post_train=seeds(seed, 0, 0, 0)).repro()
        quietly()

    def stands_at() -> int:
        return resolve(registry.store, "policy@prod", registry.trusted)[0].version

    for version in (1, 2, 3):
        assert channels.promote(registry, f"policy@v{version}", "prod", "a note").serial == version
        assert stands_at() == version
    assert channels.promote(registry, "policy@v3", "prod").serial == 3, "it stood there already"
    assert channels.rollback(registry, "policy@prod").note == "rolled back from v3"
    assert stands_at() == 2
    channels.rollback(registry, "policy@prod")
    assert stands_at() == 1
    with pytest.raises(NotFound, match="never at anything but v1"):
        channels.rollback(registry, "policy@prod")
    channels.promote(registry, "policy@prod", "canary")
    with pytest.raises(NotFound):
        channels.promote(registry, "policy@v9", "prod")
    with pytest.raises(NotFound, match="not a channel name"):
        channels.promote(registry, "policy@v1", "latest")
    assert [(r.manifest.version, r.channels) for r in list_releases(registry)] == [
        (3, ()),
        (2, ()),
        (1, ("canary", "prod")),
    ]
    assert [pointer.version for pointer in channels.read_log(registry, "policy", "prod")] == [1, 2, 3, 2, 1]
    registry.store.delete([object_key(list_releases(registry)[0].manifest.files[0].md5)])
    with pytest.raises(NotFound, match="no files/md5/"):
        channels.promote(registry, "policy@v3", "prod")
    assert stands_at() == 1


def test_of_two_who_promote_at_once_one_is_told(pipeline: Pipeline, registry: Registry) -> None:
    quietly()
    pipeline.set(post_train=seeds(1, 0, 0, 0)).repro()
    quietly()

    def attempt(version: int) -> int | None:
        try:
            return channels.promote(registry, f"policy@v{version}", "prod").serial
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            serials = [serial for serial in threads.map(attempt, [1, 2] * 4) if serial]
            log = channels.read_log(registry, "policy", "prod")
            assert [pointer.serial for pointer in log] == list(range(1, len(log) + 1))
            assert serials and set(serials) <= {pointer.serial for pointer in log}
    last = len(log)
    assert not registry.put_signed(pointer_key("policy", "prod", last), log[-1])


def test_list_and_diff_tell_versions_apart(pipeline: Pipeline, registry: Registry) -> None:
    first = quietly().manifest
    pipeline.set(post_train={"parts": 3, "seeds": [8, 0, 0], "rate": 7}).repro()
    second = quietly().manifest
    releases = list_releases(registry, "policy")
    assert [release.manifest for release in releases] == [second, first]
    assert releases[0].success == {"base": 0.4, "post_train": 0.7, "random": 0.0}
    difference = compare(registry, "policy@v1", "policy@latest")
    assert difference.params["post_train.rate"] == (6, 7) and "size" not in difference.params
    assert difference.metrics == {"evaluate.success_post_train": (0.6, 0.7), "post_train.loss": (0.0, 1.0)}
    assert {path: (was and was.size, now and now.size) for path, (was, now) in difference.files.items()} == {
        "part-0.bin": (5000, 5000),
        "part-3.bin": (5000, None),
    }
    assert difference.stages["evaluate"] == ["artifacts/post_train"] and "base_policy" not in difference.stages
    with pytest.raises(NotFound, match="no release of that name"):
        list_releases(registry, "bridge")


def test_dvc_pushes_and_pulls_the_same_store(pipeline: Pipeline, registry: Registry, tmp_path: Path) -> None:
    quietly()
    pipeline.push().commit("the run")
    clone = Pipeline(tmp_path / "clone", pipeline.store)
    pipeline.run("git", "clone", "--quiet", str(pipeline.root), str(clone.root))
    clone.use_store().run(sys.executable, "-m", "dvc", "pull", "--quiet")
    kinds = ("artifacts", "metrics", "reports")
    wanted = {
        path.relative_to(pipeline.root): path.read_bytes()
        for kind in kinds
        for path in (pipeline.root / kind).rglob("*")
        if path.is_file()
    }
    found = {
        path.relative_to(clone.root): path.read_bytes()
        for kind in kinds
        for path in (clone.root / kind).rglob("*")
        if path.is_file()
    }
    assert found == wanted
    assert json.loads(clone.run(sys.executable, "-m", "dvc", "status", "--json")) == {}


def test_store_and_keys_come_from_the_environment(
    pipeline: Pipeline, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD2ACT_STORE", "s3://another/place")
    with pytest.raises(BadInput, match="DVC's default remote, " + pipeline.store):
        quietly()
    Path(".dvc/config.local").unlink()
    monkeypatch.setenv("WORLD2ACT_STORE", pipeline.store)
    assert quietly().manifest.version == 1
    monkeypatch.delenv("WORLD2ACT_STORE")
    with pytest.raises(BadInput, match="WORLD2ACT_STORE\n"):
        quietly()
    monkeypatch.delenv("WORLD2ACT_SIGNING_KEY")
    with pytest.raises(BadInput, match="WORLD2ACT_SIGNING_KEY\n"):
        publish("policy", store=pipeline.store)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="no DVC repository"):
        open_registry()
    assert read_manifest(registry.store, "policy", 1, open_registry(pipeline.store).trusted)[0].version == 1


def test_commands_speak_to_people(pipeline: Pipeline, tmp_path: Path) -> None:
    elsewhere = Pipeline(tmp_path, pipeline.store)
    said = pipeline.run("world2act", "publish", "policy")
    assert "published policy@v1, 20.0 kB: 20.4 kB were new to the store" in said
    store = {"WORLD2ACT_STORE": pipeline.store}
    assert "policy@prod is at v1" in elsewhere.run("world2act", "promote", "policy@v1", "prod", env=store)
    listing = elsewhere.run("world2act", "list", env=store)
    assert "prod" in listing and "post_train 60%" in listing
    nowhere = elsewhere.attempt("world2act", "publish", "policy", env=store)
    assert nowhere.returncode == 2 and "run world2act in the root of the pipeline" in nowhere.stderr
    wrong = elsewhere.attempt("world2act", "diff", "policy@v1", "policy@v2", env=store)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and "found:    no such object" in wrong.stderr
