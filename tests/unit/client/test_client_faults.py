"""A real S3 server behind a proxy that breaks things: what heals, what is refused, and what each error says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.auth
import pytest
from world2act_client import store as client_store
from world2act_client.errors import Denied, NotFound, ReleaseError, Tampered, Unreachable
from world2act_client.get import get
from world2act_client.manifest import MANIFEST_TYPE, FileEntry, Manifest
from world2act_client.signing import seal
from world2act_client.store import Store, manifest_key, object_key

from tests.helpers.ceph import User
from tests.helpers.client_release import CREATED, Shelf, entry, random_bytes
from tests.helpers.fault_proxy import Fault

SIZE = 6 * 2**20
FILES = {"model": random_bytes(SIZE), "config.json": b"{}"}
PAYLOAD = SIZE + len(FILES["config.json"])
BUFFER = 2**20


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same retries with shorter waits between them."""
    monkeypatch.setattr("world2act_client.transfer._FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("world2act_client.transfer._TRIES", 3)


@pytest.fixture
def published(shelf: Shelf) -> Shelf:
    shelf.promote(shelf.publish(1, FILES), 1)
    return shelf


def act_as(monkeypatch: pytest.MonkeyPatch, user: User, endpoint: str) -> None:
    for name, value in user.environment(endpoint).items():
        monkeypatch.setenv(name, value)


def test_overloaded_server_is_asked_again(published: Shelf) -> None:
    published.proxy.faults = [Fault("/releases/", times=2, refuse=True), Fault("/files/md5/", times=3, refuse=True)]
    published.get()
    assert published.read_destination() == FILES
    assert published.proxy.refused() == 5
    assert published.proxy.payload_bytes() == PAYLOAD


def test_cut_connections_go_on_where_they_were_cut(published: Shelf) -> None:
    cut = 2 * BUFFER + 1000
    published.proxy.faults = [Fault("/files/md5/", times=4, cut_after=cut), Fault("/releases/", cut_after=10)]
    published.get()
    assert published.read_destination() == FILES
    model = object_key(entry("", FILES["model"]).md5)
    begins = [
        int(each.range.removeprefix("bytes=").split("-")[0]) for each in published.proxy.log if model in each.path
    ]
    assert len(begins) == 3 and begins == sorted(begins)
    assert 2 * cut - 2 * BUFFER <= begins[-1] <= 2 * cut
    assert published.proxy.payload_bytes() <= PAYLOAD + 2 * BUFFER


def test_slow_connection_is_waited_for(published: Shelf) -> None:
    published.proxy.faults = [Fault("/files/md5/", times=9, bytes_per_second=4 * 2**20)]
    published.get()
    assert published.read_destination() == FILES and published.proxy.payload_bytes() == PAYLOAD


def test_stalled_connection_is_given_up_and_asked_again(published: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world2act_client.store._READ_TIMEOUT_S", 1)
    published.proxy.faults = [Fault("/files/md5/", times=2, stall=True)]
    published.get()
    assert published.read_destination() == FILES


def test_byte_flipped_on_the_way_heals(published: Shelf) -> None:
    model = object_key(entry("", FILES["model"]).md5)
    published.proxy.faults = [Fault(model, flip_at=SIZE // 2)]
    published.get()
    assert published.read_destination() == FILES
    assert published.proxy.payload_bytes() == PAYLOAD + SIZE


def test_body_that_is_cut_under_a_length_that_agrees_is_completed(published: Shelf) -> None:
    published.proxy.faults = [Fault(object_key(entry("", FILES["model"]).md5), truncate_to=3 * BUFFER)]
    published.get()
    assert published.read_destination() == FILES


@pytest.mark.parametrize("damage", ["one bit", "cut short", "another", "longer"])
def test_damaged_object_is_never_handed_on(published: Shelf, damage: str) -> None:
    whole = FILES["model"]
    damaged = {
        "one bit": whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
        "cut short": whole[: SIZE // 2],
        "another": random_bytes(SIZE, 77),
        "longer": whole + b"more",
    }[damage]
    published.put(object_key(entry("", whole).md5), damaged)
    with pytest.raises(Tampered, match="model"):
        published.get()
    assert not published.destination.exists()
    assert not list((published.cache / "objects").rglob(entry("", damaged).sha256[2:]))
    published.put(object_key(entry("", whole).md5), whole)
    published.get()
    assert published.read_destination() == FILES


def test_object_replaced_in_mid_read_is_not_mixed(published: Shelf) -> None:
    """The first try ends in the middle; what lies there then is another object, and in the end the right one."""
    model = object_key(entry("", FILES["model"]).md5)
    published.proxy.faults = [Fault(model, times=99, cut_after=2 * BUFFER + 1)]
    published.put(model, random_bytes(SIZE, 5))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unreachable):
        patch.setattr("world2act_client.transfer._TRIES", 0)
        published.get()
    published.proxy.faults = []
    published.put(model, FILES["model"])
    published.get()
    assert published.read_destination() == FILES
    statuses = [each.status for each in published.proxy.log if model in each.path]
    assert 412 in statuses


@pytest.mark.parametrize("who", ["wrong secret", "unknown", "not allowed", "may not read", "nobody"])
def test_refused_credentials_are_said_without_showing_them(
    published: Shelf, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, endpoint = published.s3, published.proxy.endpoint
    denied = s3.make_user()
    if who == "may not read":
        s3.allow(denied, published.bucket, "s3:GetObject", "s3:ListBucket")
        s3.deny(denied, published.bucket, "s3:GetObject", prefix="robots/files/")
    users = {"wrong secret": s3.wrong_keys(), "unknown": s3.unknown_user()}
    user = users.get(who, denied)
    act_as(monkeypatch, user, endpoint)
    if who == "nobody":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Denied) as caught:
        published.get()
    said = {
        "wrong secret": "SignatureDoesNotMatch",
        "unknown": "InvalidAccessKeyId",
        "not allowed": "AccessDenied",
        "may not read": "AccessDenied",
        "nobody": "no credentials",
    }[who]
    assert said in str(caught.value) and caught.value.remedy
    assert user.access_key not in str(caught.value) and user.secret_key not in str(caught.value)
    assert ("/files/md5/" in caught.value.where) == (who == "may not read")


def test_no_such_bucket_is_said(published: Shelf) -> None:
    with pytest.raises(NotFound, match="no such bucket"):
        published.get(store="s3://nobodys-bucket/robots")
    with pytest.raises(NotFound, match="not an S3 URL"):
        published.get(store="https://nobodys-bucket")


def test_nobody_listening_is_said(published: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("world2act_client.store._TRIES", 1)
    with pytest.raises(Unreachable, match="AWS_ENDPOINT_URL"):
        published.get()


@pytest.mark.parametrize("hours", [-2, 3])
def test_clock_that_is_off_is_said_with_how_far(published: Shelf, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class ShiftedClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: ShiftedClock.now(UTC).replace(tzinfo=None)
    )
    monkeypatch.setattr(client_store, "datetime", ShiftedClock)
    with pytest.raises(Denied, match="clock") as caught:
        published.get()
    seconds, direction = str(caught.value.found).split(" is ")[1].split(" s ")
    assert abs(int(seconds) - abs(hours) * 3600) < 60
    assert direction == ("ahead" if hours > 0 else "behind")


def test_write_whose_answer_was_lost_is_ours_and_a_second_one_is_not(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    act_as(monkeypatch, shelf.s3.admin, shelf.proxy.endpoint)
    store = Store(shelf.url)
    shelf.proxy.faults = [Fault("claim", lose_answer=True)]
    assert store.put_new("claim", b"mine")
    assert [each.status for each in shelf.proxy.log if each.method == "PUT"] == [200, 412]
    assert not store.put_new("claim", b"mine")
    assert store.read("claim") == b"mine"


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/tmp/outside", "a//b", "a\\b", "", ".", "x\0y"])
def test_signed_manifest_that_points_outside_is_refused(shelf: Shelf, path: str) -> None:
    entries = (FileEntry(path, 2, entry("", b"{}").md5, entry("", b"{}").sha256),)
    manifest = Manifest("policy", 1, CREATED, {}, {}, [], {}, {}, {}, entries)
    with pytest.raises(Tampered):
        manifest.to_payload()  # nor can it be published
    honest = shelf.publish(1, {"inside": b"{}"}).to_payload()
    payload = honest.replace(b'"inside"', json.dumps(path).encode())
    shelf.put(manifest_key("policy", 1), seal(MANIFEST_TYPE, payload, shelf.key))
    with pytest.raises(Tampered, match="path"):
        shelf.get("policy@v1")
    assert shelf.proxy.payload_bytes() == 0
    assert {each.name for each in shelf.folder.iterdir()} <= {"cache", "robot", "keys-0", "trusted.pem"}


def test_link_planted_where_the_folder_is_built_is_not_followed(published: Shelf) -> None:
    outside = published.folder / "outside"
    outside.mkdir()
    published.destination.parent.mkdir(parents=True)
    published.destination.with_name(".policy.world2act-partial").symlink_to(outside)
    with pytest.raises(ReleaseError):
        published.get()
    assert not list(outside.iterdir()) and not published.destination.exists()


def test_tampered_manifest_is_refused(published: Shelf) -> None:
    key = manifest_key("policy", 1)
    envelope = Store(published.url).read(key)
    other = published.publish(2, FILES | {"config.json": b"evil"})
    published.put(key, Store(published.url).read(manifest_key("policy", 2)))
    with pytest.raises(Tampered, match="manifest of policy v2"):
        published.get()
    published.put(key, seal(MANIFEST_TYPE, other.to_payload().replace(b'"version":2', b'"version":1'), published.key))
    with pytest.raises(Tampered, match="replaced after it was promoted"):
        published.get()
    published.put(key, envelope.replace(b"eyJ", b"eyK", 1))
    with pytest.raises(Tampered, match="an invalid signature"):
        published.get()
    published.put(key, b"<html>captive portal</html>")
    with pytest.raises(Tampered, match="a DSSE envelope"):
        published.get()
    published.put(key, envelope)
    assert get("policy@prod", published.destination).version == 1
