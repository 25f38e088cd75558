"""The argument of `world2act serve` → the folder of a policy: a local one, or that of a signed release."""

from __future__ import annotations

import os
from pathlib import Path

from world2act_client.get import get

from world2act.artifacts.registry import open_registry
from world2act.core.errors import BadInput


def find_policy(source: str, store: str | None = None) -> tuple[Path, str]:
    """The folder of a policy, and its name for clients.

    A release is fetched into the folder `served` of the client's cache, and every byte is verified, as with
    `world2act get`. If the store does not answer, the last version on this machine is used.

    Args:
        source: a folder; NAME@CHANNEL, NAME@vVERSION or NAME@latest; or one of these after its store, as in
            s3://bucket/prefix/policy@prod.
        store: the store's URL; by default what WORLD2ACT_STORE names, or DVC's default remote.

    Raises:
        BadInput: `source` is neither a folder nor a release.
        ReleaseError: the release cannot be fetched.
    """
    if Path(source).is_dir():
        return Path(source), Path(source).resolve().name
    head, _, reference = source.rpartition("/")
    if head.startswith("s3://"):
        store = head
    elif head:
        reference = ""
    if "@" not in reference:
        expected = "a folder with a policy, NAME@CHANNEL, or s3://BUCKET/PREFIX/NAME@CHANNEL"
        raise BadInput(source, "", "no such folder, and no release", expected, "`world2act list` shows the releases")
    cache = Path(os.environ.get("WORLD2ACT_CACHE") or "~/.cache/world2act").expanduser()
    folder = cache / "served" / reference
    folder.parent.mkdir(parents=True, exist_ok=True)
    manifest = get(reference, folder, store=open_registry(store).store, cache=cache)
    return folder, f"{manifest.name} v{manifest.version}"
