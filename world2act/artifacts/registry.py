"""Open the `Registry` that every command on releases works on: the store and the keys.

The store is the DVC remote. Its URL comes from `WORLD2ACT_STORE`, or else from DVC's default remote; credentials and
endpoint come from the environment, as boto3 reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from world2act_client.manifest import MANIFEST_TYPE, POINTER_TYPE, Manifest, Pointer
from world2act_client.signing import TrustedKeys, key_id, load_signing_key, load_trusted_keys, seal
from world2act_client.store import Store

from world2act.core.errors import BadInput

if TYPE_CHECKING:
    from dvc.repo import Repo

STORE, SIGNING_KEY, TRUSTED_KEYS = "WORLD2ACT_STORE", "WORLD2ACT_SIGNING_KEY", "WORLD2ACT_TRUSTED_KEYS"
_REMOTE = "store"
# DVC's own is 15 s and runs while a part of 50 MB is still being sent: a slow line would send it again and again
_READ_TIMEOUT_S = 300


@dataclass(frozen=True)
class Registry:
    """A store, the keys whose releases count, and the key that signs new ones (None: read only)."""

    store: Store
    trusted: TrustedKeys
    signing_key: Ed25519PrivateKey | None = None

    def put_signed(self, key: str, document: Manifest | Pointer) -> bool:
        """Sign a document and write it unless the key exists. Returns whether it was written."""
        if self.signing_key is None:
            raise _no_key()
        kind = MANIFEST_TYPE if isinstance(document, Manifest) else POINTER_TYPE
        return self.store.put_new(key, seal(kind, document.to_payload(), self.signing_key))


def open_registry(url: str | None = None, *, signing: bool = False) -> Registry:
    """Open the store at `url`, or at DVC's default remote, with the keys that the environment names.

    A publisher trusts its own key in addition to those of WORLD2ACT_TRUSTED_KEYS.

    Raises:
        BadInput: there is no store, no key to verify releases with, or (`signing`) no key to sign with.
        ReleaseError: a key file or the URL is not usable.
    """
    url = url or os.environ.get(STORE)
    if url:
        return _with_keys(Store(url), signing=signing)
    here = Path.cwd()
    if not any((folder / ".dvc").is_dir() for folder in (here, *here.parents)):
        raise _no_store(f"not set, and no DVC repository in {here}")
    with open_pipeline() as repo:
        return registry_of(repo, signing=signing)


def registry_of(repo: Repo, *, signing: bool = False) -> Registry:
    """Open the store that is the default remote of `repo`. Raises: as `open_registry`."""
    remote = _default_remote(repo.config)
    if remote is None:
        raise _no_store("not set, and DVC has no default remote")
    return _with_keys(Store(remote["url"], remote.get("endpointurl")), signing=signing)


@contextmanager
def open_pipeline(url: str | None = None) -> Iterator[Repo]:
    """The DVC repository of the current directory, whose default remote is the store at `url`.

    Raises:
        BadInput: no pipeline here, one that DVC cannot read, or a default remote other than `url`.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    url = url or os.environ.get(STORE)
    try:
        config = Config(Repo.find_dvc_dir())
        remote = _default_remote(config)
        if url and remote and remote["url"].rstrip("/") != url.rstrip("/"):
            raise BadInput(
                STORE,
                "",
                url,
                f"DVC's default remote, {remote['url']}",
                f"unset {STORE}, or change the remote with `dvc remote modify`",
            )
        with Repo(config=_overlay(config, url), _wait_for_lock=True) as repo:
            yield repo
    except DvcException as error:
        remedy = "run this in the root of the pipeline; `dvc status` says more"
        raise BadInput(Path.cwd(), "", str(error), "a DVC pipeline", remedy) from error


def now() -> str:
    """The time as RFC 3339 in UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _overlay(config: Mapping[str, Any], url: str | None) -> Mapping[str, object]:
    """Overrides of DVC's configuration: `url` as default remote if there is none, and a longer read timeout."""
    name = config["core"].get("remote") or (_REMOTE if url else None)
    if name is None:
        return {}
    remote = {"url": url} | config["remote"].get(name, {})
    if remote["url"].startswith("s3://"):  # remotes of other kinds do not have this key
        remote = {"read_timeout": _READ_TIMEOUT_S} | remote
    return {"core": {"remote": name}, "remote": {name: remote}}


def _default_remote(config: Mapping[str, Any]) -> dict[str, str] | None:
    name = config["core"].get("remote")
    return config["remote"][name] if name else None


def _with_keys(store: Store, *, signing: bool) -> Registry:
    trusted: dict[str, Ed25519PublicKey] = {}
    signing_key = None
    if path := os.environ.get(SIGNING_KEY):
        signing_key = load_signing_key(path)
        trusted[key_id(signing_key.public_key())] = signing_key.public_key()
    elif signing:
        raise _no_key()
    if path := os.environ.get(TRUSTED_KEYS):
        trusted |= load_trusted_keys(path)
    if not trusted:
        raise BadInput(
            TRUSTED_KEYS,
            "",
            "not set",
            "the path of a PEM file with the public keys of the publishers",
            "ask the publisher for trusted.pem, or make a pair with `world2act keygen DIR`",
        )
    return Registry(store, trusted, signing_key)


def _no_store(found: str) -> BadInput:
    return BadInput(
        STORE,
        "",
        found,
        "the URL of the store, s3://bucket/prefix",
        f"set {STORE}, or run `dvc remote add --default store s3://bucket/prefix` in the pipeline",
    )


def _no_key() -> BadInput:
    return BadInput(
        SIGNING_KEY,
        "",
        "not set",
        "the path of a PEM private key to sign releases with",
        "make a pair with `world2act keygen DIR` and keep signing.pem to the publishers",
    )
