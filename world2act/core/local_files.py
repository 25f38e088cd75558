"""Files of this machine that a stage's parameters name, such as weights: DVC must see their content.

A stage may read what its `deps` in dvc.yaml hold: DVC then knows when it changes, versions it with `dvc add`, and runs
the stage again. Everything else of this machine is refused. What a hub serves is fixed by the commit in its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from world2act.core.errors import BadInput
from world2act.core.params import PARAMS, Params

WEIGHTS = Path("data/weights")
_NAMES = {"weights", "source", "vae", "text_encoder", "tokenizer", "lpips"}


def check_local_files(stage: str, params: Params) -> None:
    """Check every file and folder that the section of a stage names.

    Raises:
        BadInput: DVC does not see one of them.
    """
    section, deps = getattr(params, stage, None), read_deps(stage, params)
    if section is None or not deps:
        return  # the stage has no section of its own, or the pipeline in this folder does not have the stage
    for key, value in _local(section.model_dump(), f"{stage}."):
        path, at = Path(os.path.normpath(value)), WEIGHTS / stage
        seen = [dep for dep in map(Path, deps) if path.is_relative_to(dep)]
        remedy = f"move it to {at} and version it there: `dvc add {at}/NAME`"
        if not seen:
            raise BadInput(PARAMS, key, value, f"a path in one of the stage's deps, such as {at}", remedy)
        if linked := _linked_folder(path, seen[0]):
            found = f"{value}, where {linked} is a link to a folder, which DVC does not follow"
            raise BadInput(PARAMS, key, found, "a folder, or links to files", remedy)


def read_deps(stage: str, params: Params) -> list[str]:
    """The `deps` of a stage in the dvc.yaml of the current folder, `${KEY}` replaced as DVC does; empty without one."""
    path = Path("dvc.yaml")
    if not path.exists():
        return []
    entry = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].get(stage, {})
    values = params.model_dump()

    def value_of(match: re.Match[str]) -> str:
        found: object = values
        for key in match[1].split("."):
            assert isinstance(found, Mapping)
            found = found[key]
        return str(found)

    return [re.sub(r"\$\{([\w.]+)\}", value_of, dep) for dep in entry.get("deps", [])]


def _local(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    """Key and path of what exists on this machine, except folders whose hash is given next to their name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _local(value, f"{prefix}{key}.")
        elif isinstance(value, str) and _names_a_path(key, value) and "sha256" not in values:
            yield f"{prefix}{key}", value


def _names_a_path(key: str, value: str) -> bool:
    return ("/" in value or key in _NAMES) and Path(value).exists()


def _linked_folder(path: Path, dep: Path) -> Path | None:
    """A link to a folder on the way from `dep` to `path`, or below."""
    on_the_way = [parent for parent in (path, *path.parents) if parent.is_relative_to(dep)]
    below = path.rglob("*") if path.is_dir() else ()
    return next((linked for linked in (*on_the_way, *below) if linked.is_symlink() and linked.is_dir()), None)
