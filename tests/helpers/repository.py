"""A workspace that DVC knows: stages that train ask it for their identity."""

from __future__ import annotations

from pathlib import Path

from dvc.repo import Repo

from tests.helpers.paths import ROOT


def make_repository(folder: Path) -> None:
    """Make `folder` a DVC repository of our pipeline; params.yaml is for the caller to write."""
    Repo.init(str(folder), no_scm=True).close()
    (folder / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
