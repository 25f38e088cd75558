"""What a remote policy's config.json says: where it is, and how its keys map to ours. Never a credential."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from world2act.core.errors import BadInput
from world2act.core.params.section import Count, Positive, Section
from world2act.core.storage import read_json
from world2act.policies.robot import family_config

TOKEN = "WORLD2ACT_REMOTE_KEY"
"""The environment variable with the API key, or token, of the server."""

_REMEDY = "correct it; `python -m pydoc world2act.policies.remote.configuration` lists the keys"
# no user name or password: those would be credentials in a file
_Address = Annotated[str, StringConstraints(pattern=r"^(wss?|tcp)://[^@\s/]+(/[^@\s]*)?$")]
_Slice = Annotated[tuple[int, int], Field(strict=False)]


class RemoteCamera(Section):
    """The server's key of a camera's images, and their pixels a side."""

    key: str
    size: Count


class RemoteConfig(Section):
    """A remote policy: its server and its interface.

    Attributes:
        server: whose protocol it speaks.
        address: ws://host:port or wss://... for openpi, tcp://host:port for GR00T.
        timeout_s: how long one answer may take.
        connections: requests that openpi's server gets at a time; GR00T's gets all in one.
        cameras: our camera → the server's key and size.
        state: the server's key → the elements [first, end) of our proprioception that it holds; float32.
        instruction: the server's key of the task in words.
        actions: the server's key → the elements [first, end) of our action vector that it fills, in environment units.
        seed: openpi: the key under which the server takes a seed, as `world2act serve` does ("seed"). Without it, or
            with GR00T, the server draws its own noise, and the same seed need not give the same chunk.
        chunk_length: actions that are used of each chunk; the server may give more.
        protocol: the robot that it acts for (`world2act.policies.robot`), compared with what `world2act serve` says.
    """

    family: Literal["remote"]
    server: Literal["openpi", "gr00t"]
    address: _Address
    timeout_s: Positive
    connections: Count = 1
    cameras: dict[str, RemoteCamera]
    proprio_dim: Annotated[int, Field(ge=0)]
    state: dict[str, _Slice]
    instruction: str
    actions: dict[str, _Slice]
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
        own = {key: value for key, value in read_json(path).items() if key in ("family", "protocol")}
        return cls.parse(own | family_config(path), path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str | Path, prefix: str = "") -> Self:
        """Check `values`, which stand in the file `where` under the key `prefix`.

        Raises:
            BadInput: a key is missing, unknown or wrong.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            key = ".".join(map(str, [*filter(None, [prefix]), *fault["loc"]]))
            # what stands under an unknown key, or in an address, may be a credential
            unshown = {"missing": "nothing", "extra_forbidden": "an unknown key", "string_pattern_mismatch": "not that"}
            found = unshown.get(fault["type"], fault["input"] if fault["loc"] else "values that do not fit")
            raise BadInput(where, key, found, fault["msg"], _REMEDY) from error


class Unreachable(Exception):
    """The server did not answer this time; it may the next."""


def read_token() -> str | None:
    """The server's key, where the environment has one."""
    return os.environ.get(TOKEN) or None


def wrong_token(address: str, found: str) -> BadInput:
    return BadInput(address, "", found, "a key that the server takes", f"export {TOKEN}=..., the server's key")
