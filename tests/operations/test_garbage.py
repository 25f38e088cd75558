"""Collecting garbage on a real S3 server: exactly what nothing names goes, whoever publishes meanwhile."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from world2act_client.errors import Conflict, Denied, Tampered
from world2act_client.manifest import FileEntry
from world2act_client.releases import list_versions, read_manifest
from world2act_client.store import Store, manifest_key, object_key

from tests.helpers.paths import ROOT
from tests.helpers.release_pipeline import Pipeline, quietly, seeds, stored
from world2act.artifacts import channels, lease
from world2act.artifacts.catalogue import list_releases
from world2act.artifacts.garbage import Sweep, collect_garbage
from world2act.artifacts.objects import missing_objects
from world2act.artifacts.registry import Registry
from world2act.core.errors import BadInput

NO_GRACE = -1.0
"""What was written this very second is old too."""


def collect(delete: bool = True, grace_days: float = NO_GRACE, **options: bool) -> Sweep:
    return collect_garbage(dry_run=not delete, grace_days=grace_days, progress=lambda _: None, **options)


def keys_of(registry: Registry) -> set[str]:
    return set(stored(registry, "files/"))


def added_by(registry: Registry, act: Callable[[], Any]) -> set[str]:
    before = keys_of(registry)
    act()
    return keys_of(registry) - before


def whole(registry: Registry, files: tuple[FileEntry, ...]) -> bool:
    return not missing_objects(registry.store, {file.md5: file.size for file in files})


@pytest.fixture
def change(pipeline: Pipeline) -> Callable[[int], Pipeline]:
    """Bring the pipeline to contents of a number's own."""
    return lambda number: pipeline.set(post_train=seeds(number, 0, 0, 0)).repro()


def test_exactly_what_nothing_names_is_deleted(
    pipeline: Pipeline, registry: Registry, change: Callable[[int], Pipeline], tmp_path: Path
) -> None:
    origin = str(tmp_path / "origin")
    pipeline.run("git", "init", "--quiet", "--bare", origin)
    pipeline.run("git", "remote", "add", "origin", origin)
    pipeline.push().run("git", "tag", "first")
    added_by(registry, lambda: (change(1), quietly()))
    added_by(registry, lambda: change(2).push().commit())
    pipeline.run("git", "branch", "feature")
    added_by(registry, lambda: change(3).push().commit())
    pipeline.run("git", "tag", "kept")
    added_by(registry, lambda: change(4).push().commit())
    pipeline.run("git", "push", "--quiet", "origin", "HEAD:refs/heads/theirs")
    pipeline.run("git", "update-ref", "-d", "refs/remotes/origin/theirs")
    history = added_by(registry, lambda: change(5).push().commit())
    forgotten = added_by(registry, lambda: change(6).push())
    added_by(registry, lambda: change(7).push().commit())
    added_by(registry, lambda: change(8).push())
    everything = keys_of(registry)
    assert len(history) >= 3 and len(forgotten) >= 3

    dry = collect(delete=False)
    assert keys_of(registry) == everything and dry.dry_run and stored(registry, "collections/") == {}
    garbage = {key: size for key, size in stored(registry, "files/").items() if key in history | forgotten}
    assert (dry.garbage.objects, dry.garbage.size) == (len(garbage), sum(garbage.values()))
    assert (dry.kept.objects, dry.young.objects, dry.releases) == (len(everything - set(garbage)), 0, 1)
    assert collect(grace_days=1).garbage.objects == 0 and keys_of(registry) == everything
    assert collect(all_commits=True).garbage.objects == len(forgotten)
    assert keys_of(registry) == everything - forgotten
    assert collect().garbage.objects == len(history) and keys_of(registry) == everything - set(garbage)
    assert collect().garbage.objects == 0 and stored(registry, "collections/") == {}

    clone = Pipeline(tmp_path / "clone", pipeline.store)
    pipeline.run("git", "clone", "--quiet", "--branch", "kept", str(pipeline.root), str(clone.root))
    clone.use_store().run(sys.executable, "-m", "dvc", "pull", "--quiet")
    assert json.loads(clone.run(sys.executable, "-m", "dvc", "status", "--json")) == {}


def test_what_a_release_comes_from_is_kept_and_what_a_run_hands_over(
    pipeline: Pipeline, registry: Registry, change: Callable[[int], Pipeline]
) -> None:
    lineage = added_by(registry, lambda: (change(1).push(), quietly()))
    handed = added_by(registry, lambda: change(2).push())
    assert registry.store.put_new(
        "handover/a-run/stage/request.json", json.dumps(Path("dvc.lock").read_text()).encode()
    )
    pipeline.run("git", "checkout", "--quiet", "--", ".")
    forgotten = added_by(registry, lambda: change(3).push())
    change(0)
    assert collect().garbage.objects == len(forgotten) and keys_of(registry) >= lineage | handed
    registry.store.delete(["handover/a-run/stage/request.json"])
    assert collect().garbage.objects == len(handed) and keys_of(registry) >= lineage


def test_young_directory_keeps_its_old_files(
    pipeline: Pipeline, registry: Registry, change: Callable[[int], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC does not send a file again that is there, so it stays as old as it is while a run counts on it."""
    pipeline.push()
    added = added_by(registry, lambda: change(1).push())
    change(0)
    directory = next(key for key in added if key.endswith(".dir"))
    old = stored(registry, "files/")
    rewritten = registry.store.read(directory)
    registry.store.delete([directory])
    registry.store.put_new(directory, rewritten)
    written = {key: at for key, _, _, at in registry.store.list("files/")}
    members = {object_key(entry["md5"]) for entry in json.loads(rewritten)}
    between = written[directory] - timedelta(milliseconds=1)
    monkeypatch.setattr(Store, "clock", lambda store: between)
    done = collect(grace_days=0)
    assert done.young.objects == 1
    assert keys_of(registry) >= members | {directory} and set(old) - keys_of(registry) == added - members - {directory}


def test_nothing_is_deleted_while_anything_cannot_be_read(
    pipeline: Pipeline,
    registry: Registry,
    change: Callable[[int], Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added_by(registry, lambda: change(1).push())
    change(0)
    quietly()
    everything = keys_of(registry)

    def refuses(kind: type[Exception], match: str) -> None:
        with pytest.raises(kind, match=match):
            collect()
        assert keys_of(registry) == everything

    key = manifest_key("policy", 1)
    good = registry.store.read(key)
    for damage in (b"", good[:-40], good.replace(b'"payload": "e', b'"payload": "f')):
        _replace(registry.store, key, damage)
        refuses(Tampered, key)
    _replace(registry.store, key, good)
    assert registry.store.put_new("releases/policy/versions/v2.json", b"{}")
    refuses(Tampered, "an unknown object")
    registry.store.delete(["releases/policy/versions/v2.json"])
    channels.promote(registry, "policy@v1", "prod")
    registry.store.delete([key])
    refuses(Tampered, "v1, which is not in the store")
    _replace(registry.store, key, good)
    shallow = Pipeline(tmp_path / "shallow", pipeline.store)
    pipeline.commit()
    pipeline.run("git", "clone", "--quiet", "--depth", "1", f"file://{pipeline.root}", str(shallow.root))
    monkeypatch.chdir(shallow.use_store().root)
    refuses(BadInput, "shallow")
    monkeypatch.chdir(pipeline.root)
    pipeline.run("git", "remote", "add", "origin", str(tmp_path / "gone"))
    refuses(BadInput, "git fetch")
    pipeline.run("git", "remote", "remove", "origin")
    directory = next(key for key in _named(registry) if key.endswith(".dir"))
    for cached in Path(".dvc/cache").rglob(Path(directory).name):
        cached.unlink()
    _replace(registry.store, directory, b"[]")
    refuses(BadInput, "other content")


def test_one_collector_at_a_time_and_a_dead_one_is_succeeded(
    pipeline: Pipeline, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease.collector_lease(registry.store) as held:
        with pytest.raises(Conflict, match="is collecting garbage"):
            collect()
        assert collect(delete=False).dry_run
        monkeypatch.setattr(lease, "_RENEW_S", -1.0)
        held.keep()
        assert set(stored(registry, "collections/")) == {"collections/000002.json"}
    assert stored(registry, "collections/") == {}
    assert registry.store.put_new("collections/000007.json", b'{"owner": "a machine that died"}')
    with pytest.raises(Conflict, match="a machine that died"):
        collect()
    monkeypatch.setattr(lease, "LEASE_S", -60.0)
    with lease.collector_lease(registry.store) as late:
        assert set(stored(registry, "collections/")) == {"collections/000008.json"}
        registry.store.put_new("collections/000009.json", b'{"owner": "another, which found this one dead"}')
        with pytest.raises(Conflict, match="took over"):
            late.keep()
        monkeypatch.setattr(lease, "_LAST_DELETE_S", -1.0)
        with pytest.raises(Conflict, match="was suspended"):
            late.keep()


def test_publisher_waits_for_the_collector_and_mends_what_it_took(
    pipeline: Pipeline,
    registry: Registry,
    change: Callable[[int], Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The narrow place: garbage that a publisher finds in the store, and a collector has just decided to delete."""
    publisher = pipeline.copy(tmp_path / "publisher")
    pipeline.push()
    publisher.set(post_train=seeds(1, 0, 0, 0)).repro().push()
    decided, may_delete = threading.Event(), threading.Event()
    delete = Store.delete

    def slow_delete(store: Store, relatives: Any) -> None:
        names = list(relatives)
        if any(name.startswith("files/") for name in names) and not decided.is_set():
            decided.set()
            assert may_delete.wait(60)
        delete(store, names)

    monkeypatch.setattr(Store, "delete", slow_delete)
    sweeps: list[Sweep] = []
    collector = threading.Thread(target=lambda: sweeps.append(collect()))
    collector.start()
    assert decided.wait(60)
    process = publisher.start("world2act", "publish", "policy")
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2)]
    assert "is collecting garbage: waiting" in said[1], said
    assert process.poll() is None and list_versions(registry.store, "policy") == [1]
    may_delete.set()
    collector.join(60)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert sweeps[0].garbage.objects > 0
    manifest, _ = read_manifest(registry.store, "policy", 1, registry.trusted)
    assert "published policy@v1" in rest and whole(registry, manifest.files)


@pytest.mark.slow
def test_release_never_lacks_an_object_while_garbage_is_collected(
    pipeline: Pipeline, registry: Registry, tmp_path: Path
) -> None:
    """A publisher and a collector with no grace at all, as fast as they can, over contents that come back."""
    workspace = pipeline.copy(tmp_path / "publisher")
    loop = """
import random, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.helpers.release_pipeline import Pipeline, seeds
from world2act.artifacts.publish import publish
pipeline = Pipeline(Path.cwd(), {store!r})
dice = random.Random(5)
for _ in range(12):
    pipeline.set(post_train=seeds(dice.randrange(5), dice.randrange(3), 0, 0)).repro()
    if dice.random() < 0.5:
        pipeline.push()
        pipeline.set(post_train=seeds(dice.randrange(5), dice.randrange(3), 0, 0)).repro()
    done = publish("policy", progress=lambda _: None)
    print("published", done.manifest.version, flush=True)
"""
    script = loop.format(root=str(ROOT), store=pipeline.store)
    process = workspace.start(sys.executable, "-c", script)
    assert process.stdout is not None
    holes: list[str] = []

    def follow() -> None:
        for line in process.stdout:
            if line.startswith("published"):
                manifest, _ = read_manifest(registry.store, "policy", int(line.split()[1]), registry.trusted)
                holes.extend([] if whole(registry, manifest.files) else [line])

    follower = threading.Thread(target=follow)
    follower.start()
    dice, deleted = random.Random(7), 0
    while follower.is_alive():
        deleted += collect().garbage.objects
        follower.join(dice.random())
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    assert deleted > 0 and holes == []
    releases = list_releases(registry, "policy")
    assert len(releases) > 5 and all(whole(registry, release.manifest.files) for release in releases)


@pytest.mark.slow
def test_many_pages_of_garbage_go_and_what_is_kept_between_them_stays(pipeline: Pipeline, registry: Registry) -> None:
    pipeline.push()
    keep = keys_of(registry)
    with ThreadPoolExecutor(16) as threads:
        made = [object_key(hashlib.md5(b"%d" % number).hexdigest()) for number in range(2500)]
        assert all(threads.map(lambda key: registry.store.put_new(key, b"x"), made))
    assert collect().garbage.objects == len(made) and keys_of(registry) == keep


@pytest.mark.slow
def test_collector_needs_no_more_than_its_role(pipeline: Pipeline, registry: Registry, s3: Any) -> None:
    user = s3.make_user()
    s3.allow(user, registry.store.bucket, "s3:ListBucket", "s3:GetObject")
    pipeline.push()
    quietly()
    pipeline.set(post_train=seeds(1, 0, 0, 0)).repro().push()
    pipeline.set(post_train=seeds(0, 0, 0, 0)).repro()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment(user).items():
            patch.setenv(name, value)
        assert collect(delete=False).garbage.objects > 0
        with pytest.raises(Denied):
            collect()
        s3.allow(user, registry.store.bucket, "s3:PutObject", "s3:DeleteObject", prefix="w2a/collections/")
        with pytest.raises(Denied, match="files/md5"):
            collect()
        s3.allow(user, registry.store.bucket, "s3:DeleteObject", prefix="w2a/files/md5/")
        assert collect().garbage.objects > 0


def _replace(store: Store, key: str, content: bytes) -> None:
    store.s3.put_object(Bucket=store.bucket, Key=store.key(key), Body=content)


def _named(registry: Registry) -> set[str]:
    manifest, _ = read_manifest(registry.store, "policy", 1, registry.trusted)
    return {object_key(entry["md5"]) for stage in manifest.lineage for entry in stage["outs"]}
