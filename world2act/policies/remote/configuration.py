"""What a remote policy's config.json holds: its address, and how its keys map to ours. Never a credential."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from world2act.core.errors import BadInput
from world2act.core.params.section import Count, Positive, Section
from world2act.core.storage import read_json
from world2act.policies.remote.params import Address, RemoteCamera, Slice
from world2act.policies.robot import KEY, family_config

TOKEN = "WORLD2ACT_REMOTE_KEY"
"""The environment variable with the API key, or token, of the server."""

_REMEDY = "correct it; `python -m pydoc world2act.policies.remote.configuration` lists the keys"


class RemoteConfig(Section):
    """A remote policy: its server and its interface.

    Attributes:
        server: whose wire protocol it speaks.
        address: ws://host:port or wss://... for openpi, tcp://host:port for GR00T.
        revision: names the policy that is served there; null in folders written before there were revisions. It is
            compared with the server's own, where the server reports one, as `world2act serve` does.
        timeout_s: how long one answer may take.
        connections: simultaneous requests to openpi's server; GR00T's gets all observations in one request.
        cameras: our camera → the server's key and size.
        state: the server's key → the elements [first, end) of our proprioception that it holds; float32.
        instruction: the server's key of the instruction.
        actions: the server's key → the elements [first, end) of our action vector that it fills, in environment units.
        seed: openpi: the key under which the server takes a seed, as `world2act serve` does ("seed"). Without it, and
            with GR00T, the server draws its own noise, and the same seed may give different chunks.
        chunk_length: how many actions of each chunk are used; the server may send more.
        protocol: the robot that it acts for (`world2act.policies.robot`), compared with what `world2act serve` reports.
    """

    family: Literal["remote"]
    server: Literal["openpi", "gr00t"]
    address: Address
    revision: str | None = None
    timeout_s: Positive
    connections: Count = 1
    cameras: dict[str, RemoteCamera]
    proprio_dim: Annotated[int, Field(ge=0)]
    state: dict[str, Slice]
    instruction: str
    actions: dict[str, Slice]
    seed: str | None = None
    chunk_length: Count
    action_dim: Count
    protocol: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.address.startswith("tcp:") != (self.server == "gr00t"):
            raise ValueError("address: ws:// or wss:// for openpi, tcp:// for gr00t")
        if any(not 0 <= first < end <= self.proprio_dim for first, end in self.state.values()):
            raise ValueError(f"state: slices [first, end) of {self.proprio_dim} elements")
        if sorted(i for first, end in self.actions.values() for i in range(first, end)) != [*range(self.action_dim)]:
            raise ValueError(f"actions: slices [first, end) that fill {self.action_dim} elements, each once")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config.json. Raises `BadInput` as `parse` does."""
        common = {key: value for key, value in read_json(path).items() if key in ("family", KEY)}
        return cls.parse(common | family_config(path), path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str | Path, prefix: str = "") -> Self:
        """Check `values`, which are in the file `where` under the key `prefix`.

        Raises:
            BadInput: a key is missing, unknown or wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            key = ".".join(map(str, [*filter(None, [prefix]), *fault["loc"]]))
            found = _shown(fault)
            raise BadInput(where, key, found, fault["msg"], _REMEDY) from error


def _shown(fault: ErrorDetails) -> object:
    """What was found, without what may be a credential: the value of an unknown key, or an address."""
    match fault["type"]:
        case "missing":
            return "nothing"
        case "extra_forbidden":
            return "an unknown key"
        case "unfit":
            return fault["ctx"]["found"]
        case _:
            return fault["input"] if fault["loc"] else "values that do not fit"


class Unreachable(Exception):
    """The server did not answer this time; it may the next."""


def read_token() -> str | None:
    """The server's key, where the environment has one."""
    return os.environ.get(TOKEN) or None


def wrong_token(address: str, found: str) -> BadInput:
    return BadInput(address, "", found, "a key that the server takes", f"export {TOKEN}=..., the server's key")
