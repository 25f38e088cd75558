"""The block `base_policy.remote` of params.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from world2act.core.params.section import Count, Positive, Section

# no user name or password: those would be credentials in a file
_ADDRESS = re.compile(r"(wss?|tcp)://[^@\s/]+(/[^@\s]*)?")


def _without_credentials(address: str) -> str:
    if not _ADDRESS.fullmatch(address):
        found = "something else, not shown since it may hold a credential"
        raise PydanticCustomError("unfit", "ws://HOST:PORT, wss://HOST:PORT or tcp://HOST:PORT", {"found": found})
    return address


Address = Annotated[str, AfterValidator(_without_credentials)]
Slice = Annotated[tuple[int, int], Field(strict=False)]


class RemoteCamera(Section):
    """The server's key of a camera's images, and the side of an image in pixels."""

    key: str
    size: Count


class Parameters(Section):
    """`base_policy.remote`; see `world2act.policies.remote.configuration.RemoteConfig` for the keys.

    Unlike other sections, keys may be left out. With `server: openpi`, the keys from `cameras` on are by default those
    that `world2act serve` reads of a policy that was trained on these demonstrations. With `server: gr00t` they depend
    on the checkpoint that is served, and all but `seed` must be given.

    Attributes:
        revision: names the policy that is served at the address: change it when another one is served, so that DVC
            runs what depends on it again. `world2act serve` reports the digest of the policy's folder, and any other
            revision than that is refused.
    """

    server: Literal["openpi", "gr00t"]
    address: Address
    revision: str = Field(min_length=1)
    timeout_s: Positive
    connections: Count = 1
    cameras: dict[str, RemoteCamera] | None = None
    state: dict[str, Slice] | None = None
    instruction: str | None = None
    actions: dict[str, Slice] | None = None
    seed: str | None = None
