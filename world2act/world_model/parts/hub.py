"""Where pre-trained weights are: in a folder on this machine, or NAME@COMMIT on a hub with Hugging Face's protocol.

Nothing is fetched unless a hub id was named, and a hub id names a commit: a branch would let the bytes change under
the same parameters. The hub is HF_ENDPOINT's, the cache HF_HOME's; a token is read from HF_TOKEN and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from world2act.core.errors import BadInput

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<commit>.*)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(source: str, key: str, patterns: Sequence[str]) -> Path:
    """The folder that `source` names; one on a hub is fetched into the local cache first, whole or not at all.

    Args:
        key: the key of params.yaml that holds `source`.
        patterns: of the files wanted from a hub.

    Raises:
        BadInput: there is no such folder, the hub id names no commit, or the hub does not give the files.
    """
    if Path(source).is_dir():
        return Path(source)
    hub_id = _HUB_ID.fullmatch(source)
    if hub_id is None:
        raise BadInput(
            "params.yaml", key, f"{source!r}, no such folder", "a folder, or NAME@COMMIT", "correct the path"
        )
    if not _COMMIT.fullmatch(hub_id["commit"]):
        found, expected = f"revision {hub_id['commit']!r}", "a commit, 40 hexadecimal digits"
        raise BadInput("params.yaml", key, found, expected, "copy it from the model's page: branches and tags move")
    return _fetch(hub_id["name"], hub_id["commit"], key, patterns)


def _fetch(name: str, commit: str, key: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    token = os.environ.get("HF_TOKEN") or False
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns), token=token))
    except (OSError, ValueError) as error:
        where = f"{constants.ENDPOINT}/{name} at {commit}"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
        remedy = (
            "accept the model's terms on its page and set HF_TOKEN"
            if refused
            else "set HF_ENDPOINT to a hub that can be reached, unset HF_HUB_OFFLINE, or name a folder in its place"
        )
        raise BadInput(where, key, reason, f"the files {', '.join(patterns)}", remedy) from error
