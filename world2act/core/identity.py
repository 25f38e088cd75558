"""One identity for every stage: of all that its result depends on, as dvc.yaml says that the stage reads it.

Shards of a stage are reused, and a training run is continued, only under the same identity. It holds

- the content of the stage's `deps`, as DVC hashes it (DVC keeps the hashes of files that did not change). Python files
  count by their syntax tree, without docstrings: a changed comment does not discard a run of several days;
- the values of its `params`, without `WHERE_IT_RUNS`; where one of them names a file or a folder, its content too.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from world2act.core.storage import read_json, sha256

if TYPE_CHECKING:
    from dvc.stage import Stage

WHERE_IT_RUNS = (
    "base.ranks",  # how many processes train
    "base.workers",  # how many processes simulate
    "training.accumulation",  # how many micro-batches a step is split into
    "training.checkpoint_every",  # how much a killed run loses
    "gradient_checkpointing",  # whether activations are kept or computed again
)
"""Parameters, by the end of their names, that say how and where a stage runs and not what it computes. A run goes on
under other values of these, and ends with the same weights up to the order of summation."""

DEEPSPEED = "training.deepspeed"
_PRECISION = ("torch_autocast", "bf16", "fp16")


def stage_identity(name: str, *also: object) -> str:
    """The identity of a stage of dvc.yaml in the current folder: 16 hexadecimal digits.

    Args:
        also: what else its result depends on, as JSON holds it.

    Raises:
        BadInput: DeepSpeed's configuration file is missing or damaged.
    """
    from dvc.repo import Repo

    with Repo() as repository:
        return identity_of(repository.stage.load_one(name=name), *also)


def identity_of(stage: Stage, *also: object) -> str:
    """The identity of a stage that DVC has read. Raises `BadInput` as `stage_identity` does."""
    from dvc.dependency.param import ParamsDependency

    content: dict[str, object] = {}
    values: dict[str, object] = {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            values |= dep.read_params()
        else:
            code = _code_digest(stage, dep.fs_path)
            content[dep.def_path] = code or (dep.get_hash().value if dep.exists else None)
    deepspeed = {value for key, value in _leaves(values) if key.endswith(DEEPSPEED)}
    return digest({path: found for path, found in content.items() if path not in deepspeed}, values, also)


def digest(content: Mapping[str, object], values: Mapping[str, object], also: object) -> str:
    """The identity of a stage that reads `content`, path → hash, and parameters, dotted name → value or section."""
    counted = {key: _value(key, value, content) for key, value in _leaves(values) if not _runs_only(key)}
    text = json.dumps([content, counted, also], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def precision(configuration: Mapping[str, object]) -> str:
    """What of a DeepSpeed configuration changes the numbers, and not only where they are kept."""
    return json.dumps({key: configuration[key] for key in _PRECISION if key in configuration}, sort_keys=True)


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is no section, by its dotted name. An empty section is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _runs_only(key: str) -> bool:
    return any(key == name or key.endswith(f".{name}") for name in WHERE_IT_RUNS)


def _value(key: str, value: object, content: Mapping[str, object]) -> object:
    """What a parameter counts as: itself, with what it names on this disk unless that is among the `content`."""
    if not isinstance(value, str):
        return value
    if key.endswith(DEEPSPEED):
        return precision(read_json(value))
    path = Path(value)
    if any(path.is_relative_to(dep) for dep in content) or not path.exists():
        return value
    return [value, sha256(path)]


def _code_digest(stage: Stage, path: str) -> str | None:
    """The hash of a Python file, or of a folder that holds some; None where there is none."""
    root = Path(path)
    if root.suffix == ".py" and root.is_file():
        return _syntax(root)
    if not root.is_dir():
        return None
    seen = map(Path, stage.repo.dvcignore.find(stage.repo.fs, path))
    files = sorted(file for file in seen if "__pycache__" not in file.parts)
    if not any(file.suffix == ".py" for file in files):
        return None
    found = hashlib.sha256()
    for file in files:
        one = _syntax(file) if file.suffix == ".py" else sha256(file)
        found.update(f"{file.relative_to(root).as_posix()}\0{one}\n".encode())
    return found.hexdigest()


def _syntax(path: Path) -> str:
    """The hash of what a Python file does, whatever its comments, docstrings and layout say."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        match node:
            case ast.Module(body=body) | ast.ClassDef(body=body) | ast.FunctionDef(body=body):
                _drop_docstring(body)
            case ast.AsyncFunctionDef(body=body):
                _drop_docstring(body)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _drop_docstring(body: list[ast.stmt]) -> None:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *_]:
            del body[0]
