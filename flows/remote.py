"""The DVC remote of a workspace: which one it is, and what goes there and comes from there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.dvc_run import run_dvc
from flows.graph import open_repository
from world2act.artifacts.registry import STORE, open_pipeline
from world2act.core.errors import InfrastructureError

_NAME = "store"


def use_store() -> str | None:
    """The URL of DVC's default remote. Where there is none and WORLD2ACT_STORE names one, it becomes that.

    Raises:
        BadInput: both name one, and they differ.
    """
    with open_pipeline() as repository:
        name = repository.config["core"].get("remote")
        url = repository.config["remote"][name]["url"] if name else None
    with open_repository() as repository:
        recorded = repository.config["core"].get("remote")
    if url and not recorded:
        print(f"{STORE} becomes DVC's default remote here, in .dvc/config.local", flush=True)
        configure(url)
    return url


def configure(url: str, cache: Path | None = None) -> None:
    """Make `url` the default remote of this workspace, and `cache` its cache, for this machine only."""
    with open_repository() as repository, repository.config.edit("local") as local:
        local["remote"][_NAME] = {"url": url}
        local["core"]["remote"] = _NAME
        if cache is not None:
            local["cache"]["dir"] = str(cache)


def pull(stages: Iterable[str]) -> None:
    """Bring the outputs of stages from the remote. Raises: `InfrastructureError`, `LockBusy`."""
    _must("pull", *stages)


def push(stages: Iterable[str]) -> None:
    """Send the outputs of stages to the remote. Raises: `InfrastructureError`, `LockBusy`."""
    _must("push", *stages)


def _must(*arguments: str) -> None:
    code, text = run_dvc(f"dvc {arguments[0]}", *arguments)
    if code:
        raise InfrastructureError(
            f"dvc {' '.join(arguments)}\n  found:    {text or f'exit status {code}'}\n  expected: success"
            "\n  remedy:   check the remote (`dvc remote list`), AWS_ENDPOINT_URL and the AWS_* credentials"
        )
