"""A remote policy as a directory: one config.json (`configuration.py`), nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError
from world2act.policies.remote.configuration import RemoteConfig, Unreachable
from world2act.sims.base import Observation

_TRIES = 3
_PAUSE_S = 0.5


class Link(Protocol):
    """One protocol, towards one server."""

    def ask(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Mapping[str, Any]]:
        """For each observation, what the server gave: its key → actions, (at least chunk_length, width).

        Raises:
            Unreachable: no answer this time; the next call connects again.
            InfrastructureError: the server says that it failed.
            BadInput: it does not take our key, or serves a policy with other inputs and outputs.
        """


class RemotePolicy:
    """See `world2act.policies.base.Policy`. It connects when it is first asked, and again after an interruption."""

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self.chunk_length, self.action_dim = config.chunk_length, config.action_dim
        self.cameras = {name: camera.size for name, camera in config.cameras.items()}
        self.proprio_dim = config.proprio_dim
        self._link = _open_link(config)

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        """As the contract says, except that the noise is the server's where `config.seed` is None.

        Raises:
            InfrastructureError: the server cannot be reached, or fails.
            BadInput: it refuses our key, or gives something else than finite chunks of the configured shape.
        """
        answers = self._patiently(lambda: self._link.ask(observations, seeds))
        if len(answers) != len(observations):
            raise self._unfit("", f"{len(answers)} chunks", f"{len(observations)}")
        return np.stack([self._chunk(answer) for answer in answers])

    def _patiently(self, ask: Callable[[], list[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            try:
                return ask()
            except Unreachable as error:
                last = error
        raise InfrastructureError(
            f"{self.config.address}: the policy's server\n  found:    {last}, {_TRIES} times"
            f"\n  expected: an answer within {self.config.timeout_s:g} s\n  remedy:   start it, and run this again"
        ) from last

    def _chunk(self, answer: Mapping[str, Any]) -> np.ndarray:
        chunk = np.empty((self.chunk_length, self.action_dim), np.float32)
        for key, (first, end) in self.config.actions.items():
            value, width = answer.get(key), end - first
            expected = f"numbers ({self.chunk_length} or more, {width})"
            if not isinstance(value, np.ndarray):
                raise self._unfit(key, type(value).__name__, expected)
            numeric = value.dtype.kind in "fiu" and value.ndim == 2
            if not numeric or value.shape[0] < self.chunk_length or value.shape[1] != width:
                raise self._unfit(key, f"{value.dtype} {value.shape}", expected)
            if not np.isfinite(value[: self.chunk_length]).all():
                raise self._unfit(key, "actions that are not finite", "finite ones")
            chunk[:, first:end] = value[: self.chunk_length]
        return chunk.clip(-1, 1)

    def _unfit(self, key: str, found: str, expected: str) -> BadInput:
        return BadInput(self.config.address, key, found, expected, "serve the policy that config.json describes")


def _open_link(config: RemoteConfig) -> Link:
    if config.server == "gr00t":
        from world2act.policies.remote.gr00t import Gr00tLink

        return Gr00tLink(config)
    from world2act.policies.remote.openpi import OpenpiLink

    return OpenpiLink(config)


def from_pretrained(directory: str | Path) -> RemotePolicy:
    """Open a directory whose config.json says where the policy is served. Raises: `BadInput`."""
    return RemotePolicy(RemoteConfig.read(Path(directory) / "config.json"))
