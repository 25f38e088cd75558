"""Ed25519 signatures around payloads, in DSSE envelopes (github.com/secure-systems-lab/dsse, protocol 1.0.2).

An envelope is JSON: payloadType, payload (base64), signatures [{keyid, sig}]. The signature covers the type, so that a
pointer is never mistaken for a manifest. A key's id is the sha256 of its public half in DER.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from world2act_client.errors import Conflict, Denied, NotFound, Tampered

TrustedKeys = Mapping[str, Ed25519PublicKey]
_PEM_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_NEW_PAIR = "make a pair with `world2act keygen DIR`"


def seal(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """Sign a payload. Returns: the envelope; the same input gives the same bytes."""
    signature = key.sign(_signed_bytes(payload_type, payload))
    envelope = {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, sort_keys=True).encode() + b"\n"


def open_sealed(envelope: bytes, payload_type: str, trusted: TrustedKeys, where: object = "envelope") -> bytes:
    """The payload, if a trusted key signed it.

    Raises:
        Tampered: not an envelope, another payload type, no signature by a trusted key, or an invalid one.
    """
    try:
        value = json.loads(envelope)
        found_type, payload = value["payloadType"], base64.b64decode(value["payload"], validate=True)
        signatures = [(entry["keyid"], base64.b64decode(entry["sig"], validate=True)) for entry in value["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        remedy = "it is damaged or not a release; ask the operator of the store"
        raise Tampered(where, f"{type(error).__name__}: {error}", "a DSSE envelope", remedy) from error
    if found_type != payload_type:
        raise Tampered(where, f"payload type {found_type!r}", payload_type, "it is in the wrong place: do not use it")
    by_trusted = [(trusted[keyid], signature) for keyid, signature in signatures if keyid in trusted]
    if not by_trusted:
        raise Tampered(
            where,
            f"a signature by {', '.join(str(keyid)[:16] for keyid, _ in signatures) or 'nobody'}",
            f"one by a trusted key: {', '.join(keyid[:16] for keyid in trusted)}",
            "if the signer is new and known to you, add its public key to the file WORLD2ACT_TRUSTED_KEYS names",
        )
    for key, signature in by_trusted:
        try:
            key.verify(signature, _signed_bytes(payload_type, payload))
            return payload
        except InvalidSignature:
            continue
    raise Tampered(where, "an invalid signature", "the content that was signed", "do not use it")


def key_id(key: Ed25519PublicKey) -> str:
    """The sha256 of the public key in DER (SubjectPublicKeyInfo), as hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def load_signing_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a PEM private key. Raises `NotFound`, or `Denied` where it is of another kind or world-readable."""
    content = _read_key_file(path, "a PEM file with an Ed25519 private key")
    if Path(path).stat().st_mode & 0o007:
        raise Denied(path, "a private key that every user may read", "mode 0600", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise Denied(path, "not a readable private key", "an unencrypted Ed25519 key as PEM", _NEW_PAIR) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Denied(path, type(key).__name__, "an Ed25519 private key", _NEW_PAIR)
    return key


def load_trusted_keys(path: str | Path) -> TrustedKeys:
    """Read a file of PEM public keys; returns them by key id. Raises `NotFound`, or `Denied` where it has none."""
    trusted: dict[str, Ed25519PublicKey] = {}
    for block in _PEM_PUBLIC.findall(_read_key_file(path, "a PEM file with the public keys to trust")):
        try:
            key = load_pem_public_key(block)
        except ValueError as error:
            raise Denied(path, "a damaged public key", "Ed25519 public keys as PEM", _NEW_PAIR) from error
        if not isinstance(key, Ed25519PublicKey):
            raise Denied(path, type(key).__name__, "Ed25519 public keys", _NEW_PAIR)
        trusted[key_id(key)] = key
    if not trusted:
        raise Denied(path, "no public key", "at least one Ed25519 public key as PEM", _NEW_PAIR)
    return trusted


def make_key_pair(directory: str | Path) -> tuple[Path, Path]:
    """Write a new pair: signing.pem (mode 0600) and trusted.pem. Raises `Conflict` where one exists."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / "signing.pem", folder / "trusted.pem"
    for path in (private, public):
        if path.exists():
            raise Conflict(path, "a key", "no file", "choose another folder: a lost key cannot be restored")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(secret)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _signed_bytes(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _read_key_file(path: str | Path, expected: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise NotFound(path, "nothing", expected, _NEW_PAIR) from error
    except OSError as error:
        raise Denied(path, error.strerror, expected, "give this user permission to read it") from error
