"""What is accepted as a manifest, pointer, envelope, key and reference; no server is needed."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world2act_client.errors import Conflict, Denied, NotFound, Tampered
from world2act_client.manifest import MANIFEST_TYPE, POINTER_TYPE, Manifest, Pointer, digest_of
from world2act_client.releases import Reference, parse_reference
from world2act_client.signing import (
    key_id,
    load_signing_key,
    load_trusted_keys,
    make_key_pair,
    open_sealed,
    seal,
)

from tests.helpers.client_release import CREATED, entry

A, B = entry("a", b"1"), entry("deep/b", b"22")
MANIFEST = Manifest("policy", 3, CREATED, {"revision": "1" * 40}, {"x": 1.5}, [{"stage": "s"}], {}, {}, {}, (A, B))
POINTER = Pointer("policy", "prod", 1, 3, "0" * 64, CREATED, "")


def test_manifest_and_pointer_come_back_as_they_were() -> None:
    payload = MANIFEST.to_payload()
    assert Manifest.from_payload(payload) == MANIFEST and MANIFEST.to_payload() == payload
    assert MANIFEST.size == 3 and len(digest_of(payload)) == 64
    assert Pointer.from_payload(POINTER.to_payload()) == POINTER


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("version", 0),
        ("version", True),
        ("version", "3"),
        ("name", "../policy"),
        ("name", "Policy"),
        ("created", "yesterday"),
        ("created", "2026-01-01T00:00:00+02:00"),
        ("created", "2026-01-01T00:00:00"),
        ("params", []),
        ("files", {}),
        ("files", [{"path": "a"}]),
        ("files", [vars(A) | {"size": -1}]),
        ("files", [vars(A) | {"size": 1.0}]),
        ("files", [vars(A) | {"md5": "../../../releases/x"}]),
        ("files", [vars(A) | {"md5": A.md5.upper()}]),
        ("files", [vars(A) | {"sha256": A.sha256[:-1]}]),
        ("files", [vars(A) | {"path": ".world2act-release.json"}]),
        ("files", [vars(A), vars(A)]),
        ("files", [vars(A), vars(B) | {"path": "a/b"}]),
        ("files", [vars(A), vars(B) | {"md5": A.md5}]),
        ("surprise", 1),
    ],
)
def test_manifest_that_breaks_the_schema_is_refused(key: str, value: Any) -> None:
    broken = json.loads(MANIFEST.to_payload()) | {key: value}
    with pytest.raises(Tampered, match="expected: "):
        Manifest.from_payload(json.dumps(broken).encode(), "here")


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff", b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(payload: bytes) -> None:
    with pytest.raises(Tampered):
        Manifest.from_payload(payload)


def test_manifest_with_a_number_that_is_none_is_not_published() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(MANIFEST, metrics={"evaluate": {"success": float("nan")}}).to_payload()


@pytest.mark.parametrize("channel", ["latest", "v3", "Prod", "", "a/b", "3"])
def test_channel_that_could_be_mistaken_is_refused(channel: str) -> None:
    with pytest.raises(Tampered):
        replace(POINTER, channel=channel).to_payload()


def test_references() -> None:
    assert parse_reference("world-model@prod") == Reference("world-model", channel="prod")
    assert parse_reference("policy@v12") == Reference("policy", version=12)
    assert parse_reference("policy@latest") == Reference("policy")
    for text in ("world-model@prod", "policy@v12", "policy@latest"):
        assert str(parse_reference(text)) == text


def test_signature_covers_payload_and_type(tmp_path: Path) -> None:
    private, public = make_key_pair(tmp_path / "keys")
    key, trusted = load_signing_key(private), load_trusted_keys(public)
    envelope = seal(MANIFEST_TYPE, b"payload", key)
    assert open_sealed(envelope, MANIFEST_TYPE, trusted) == b"payload"
    assert seal(MANIFEST_TYPE, b"payload", key) == envelope
    fields = json.loads(envelope)
    changed = [
        fields | {"payload": "cGF5bG9hZQ=="},
        fields | {"payloadType": POINTER_TYPE},
        fields | {"signatures": []},
        fields | {"signatures": [fields["signatures"][0] | {"sig": ""}]},
        fields | {"signatures": [fields["signatures"][0] | {"keyid": "0" * 64}]},
        {},
    ]
    for each in changed:
        for kind in (MANIFEST_TYPE, POINTER_TYPE):
            with pytest.raises(Tampered):
                open_sealed(json.dumps(each).encode(), kind, trusted)


def test_several_keys_are_trusted_and_strangers_are_not(tmp_path: Path) -> None:
    pairs = [make_key_pair(tmp_path / str(number)) for number in range(3)]
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"# the fleet's\n" + pairs[0][1].read_bytes() + pairs[1][1].read_bytes())
    trusted = load_trusted_keys(bundle)
    keys = [load_signing_key(private) for private, _ in pairs]
    assert set(trusted) == {key_id(key.public_key()) for key in keys[:2]}
    for key in keys[:2]:
        assert open_sealed(seal("t", b"x", key), "t", trusted) == b"x"
    with pytest.raises(Tampered, match=key_id(keys[2].public_key())[:16]):
        open_sealed(seal("t", b"x", keys[2]), "t", trusted)


def test_keys_are_kept_private_and_never_replaced(tmp_path: Path) -> None:
    private, public = make_key_pair(tmp_path)
    assert private.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        make_key_pair(tmp_path)
    private.chmod(0o644)
    with pytest.raises(Denied, match="chmod 600"):
        load_signing_key(private)
    with pytest.raises(Denied, match="not a readable private key"):
        load_signing_key(_made_private(public))
    with pytest.raises(Denied, match="no public key"):
        load_trusted_keys(private)
    with pytest.raises(NotFound, match="keygen"):
        load_trusted_keys(tmp_path / "nothing")


def _made_private(path: Path) -> Path:
    path.chmod(0o600)
    return path


def _tamper() -> None:
    raise Tampered("here", "this", "that", "do so")


def test_errors_travel_between_processes() -> None:
    with ProcessPoolExecutor(1) as pool:
        error = pool.submit(_tamper).exception()
    assert isinstance(error, Tampered) and str(error) == str(Tampered("here", "this", "that", "do so"))
