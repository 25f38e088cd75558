"""Reading params.yaml, and composing it from the profiles."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from world2act.core.errors import BadInput
from world2act.core.params.base import Base
from world2act.core.params.blocks import Blocks
from world2act.core.params.bridge import Bridge
from world2act.core.params.demos import Demos
from world2act.core.params.evaluation import Evaluate
from world2act.core.params.gates import Gates
from world2act.core.params.policies import BasePolicy
from world2act.core.params.post_training import PostTrain
from world2act.core.params.section import Section
from world2act.core.params.skills import Skills
from world2act.core.params.tokenizer import Latents, Tokenizer
from world2act.core.params.world_model import Judge, Rollouts, WorldModel

PROFILES = Path("conf/profile")
PARAMS = Path("params.yaml")


class Params(Section):
    profile: str
    base: Base
    demos: Demos
    skills: Skills
    tokenizer: Tokenizer
    latents: Latents
    world_model: WorldModel
    judge: Judge
    base_policy: BasePolicy
    bridge: Bridge
    rollouts: Rollouts
    post_train: PostTrain
    evaluate: Evaluate
    gates: Gates

    @model_validator(mode="after")
    def _method_has_limits(self) -> Params:
        method = self.post_train.method
        if not self.gates.post_train.has_block(method):
            raise PydanticCustomError("unfit", f"limits in gates.post_train.{method}", {"found": "none"})
        return self


def load_params(path: str | Path = PARAMS) -> Params:
    """Read and check a parameter file.

    Raises:
        BadInput: the file is missing or not YAML, or a key is missing, unknown or of the wrong type; the
            message names every such key.
    """
    return parse_params(read_yaml(Path(path)), path)


def parse_params(values: Any, where: str | Path) -> Params:
    """Check values that came from `where`. Raises `BadInput` as `load_params` does."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        keys = ", ".join(".".join(map(str, fault["loc"])) for fault in faults)
        found = "; ".join(_found(fault) for fault in faults)
        expected = "; ".join(fault["msg"] for fault in faults)
        raise BadInput(
            where, keys, found, expected, "correct the key; conf/profile/default.yaml lists them all"
        ) from error


def compose(profile: str, root: str | Path = ".") -> dict[str, Any]:
    """The full values of a profile: conf/profile/default.yaml overlaid with conf/profile/<profile>.yaml.

    Raises:
        BadInput: there is no such profile, or it names a key that neither default.yaml nor a mapping by name has.
    """
    folder = Path(root) / PROFILES
    values = read_yaml(folder / "default.yaml")
    path = folder / f"{profile}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise BadInput(path, "", "no such profile", f"one of {known}", "name one of these, or write the file")
    if profile != "default":
        _overlay(values, read_yaml(path), path, "", Params)
    parse_params(values, path)
    return values


def _overlay(values: dict[str, Any], changes: dict[str, Any], path: Path, prefix: str, kind: object) -> None:
    for key, change in changes.items():
        if key not in values and not _takes_new_keys(kind):
            raise BadInput(path, f"{prefix}{key}", "an unknown key", f"one of {sorted(values)}", "correct its spelling")
        if isinstance(values.get(key), dict) and isinstance(change, dict):
            _overlay(values[key], change, path, f"{prefix}{key}.", _kind_of(kind, key))
        else:
            values[key] = change


def _takes_new_keys(kind: object) -> bool:
    """Whether a profile may add entries: to a mapping by name, and to a section with one block per member."""
    return get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Blocks))


def _kind_of(kind: object, key: str) -> object:
    """The class of the section, or the type of the mapping, at `key` of such a one; None where it is neither."""
    if get_origin(kind) is dict:
        found: object = get_args(kind)[1]
    elif isinstance(kind, type) and issubclass(kind, Section) and key in kind.model_fields:
        found = kind.model_fields[key].annotation
    else:
        return None
    if isinstance(found, UnionType):  # a section, or null
        return next(option for option in get_args(found) if option is not NoneType)
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of sections. Raises `BadInput` when it is missing, not YAML or not a mapping."""
    if not path.exists():
        raise BadInput(path, "", "no such file", "a parameter file", "run `world2act profile default` to write it")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BadInput(path, "", str(error), "valid YAML", "correct the line that the message names") from error
    if not isinstance(values, dict):
        raise BadInput(
            path, "", type(values).__name__, "a mapping of sections", "compare with conf/profile/default.yaml"
        )
    return values


def _found(fault: Any) -> str:
    match fault["type"]:
        case "missing":
            return "a missing key"
        case "extra_forbidden":
            return "an unknown key"
        case "unfit":
            return fault["ctx"]["found"]
        case _:
            return repr(fault["input"])
