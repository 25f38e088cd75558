"""Profiles in, params.yaml out: what `world2act profile` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from world2act.core.errors import BadInput
from world2act.core.params import PARAMS, PROFILES, compose, read_yaml

_HEADER = """\
# The parameters in force. Written by `world2act profile {name}` from conf/profile/default.yaml{overlay}, which
# explain the keys. For a trial change a value here, or run `dvc exp run -S section.key=value`; to keep it, put it
# into a profile and write this file again.
"""


def list_profiles(root: str | Path = ".") -> dict[str, str]:
    """Every profile and the first line of its leading comment."""
    paths = sorted((Path(root) / PROFILES).glob("*.yaml"), key=lambda path: (path.stem != "default", path.stem))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in paths}


def render_profile(name: str, root: str | Path = ".") -> str:
    """The text of params.yaml under a profile. Raises `BadInput` as `compose` does."""
    overlay = "" if name == "default" else f" and conf/profile/{name}.yaml"
    values = yaml.safe_dump(compose(name, root), sort_keys=False, default_flow_style=None, width=118)
    return _HEADER.format(name=name, overlay=overlay) + values


def write_profile(name: str, root: str | Path = ".", force: bool = False) -> Path:
    """Write params.yaml from a profile.

    Raises:
        BadInput: there is no such profile, or params.yaml was edited by hand and `force` is not given.
    """
    text = render_profile(name, root)
    path = Path(root) / PARAMS
    if path.exists() and not force:
        current, edited = profile_in_force(root)
        if edited:
            raise BadInput(
                path,
                ", ".join(edited),
                "edited by hand",
                f"what conf/profile/{current}.yaml says",
                f"keep the change in a profile of its own, or give it up with `world2act profile {name} --force`",
            )
    path.write_text(text, encoding="utf-8")
    return path


def profile_in_force(root: str | Path = ".") -> tuple[str, list[str]]:
    """The profile that params.yaml names, and the keys in which the file differs from it.

    Raises:
        BadInput: params.yaml is missing or damaged, or names no known profile.
    """
    path = Path(root) / PARAMS
    values = read_yaml(path)
    name = values.get("profile")
    if name not in list_profiles(root):
        raise BadInput(
            path,
            "profile",
            name,
            f"one of {', '.join(list_profiles(root))}",
            "write it again: `world2act profile NAME --force`",
        )
    return name, _differences(values, compose(name, root), "")


def _differences(ours: Any, theirs: Any, prefix: str) -> list[str]:
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [prefix]
    keys = [*theirs, *(key for key in ours if key not in theirs)]
    missing = object()
    return [
        difference
        for key in keys
        for difference in _differences(ours.get(key, missing), theirs.get(key, missing), f"{prefix}.{key}".lstrip("."))
    ]
