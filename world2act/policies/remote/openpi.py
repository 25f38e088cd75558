"""openpi's websocket protocol, the client's side: `world2act.serving.server` and openpi's own server are the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from world2act.core.errors import BadInput, InfrastructureError
from world2act.policies.remote.configuration import RemoteConfig, Unreachable, read_token, wrong_token
from world2act.policies.remote.openpi_messages import pack, unpack
from world2act.policies.robot import KEY
from world2act.sims.base import Observation

_MAX_ANSWER = 16 * 2**20
_SHOWN = 2000


class OpenpiLink:
    """See `world2act.policies.remote.policy.Link`. One request at a time on each of `connections` connections."""

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(config.connections, "openpi")
        # a place for each connection; None: to be opened
        self._places: SimpleQueue[ClientConnection | None] = SimpleQueue()
        for _ in range(config.connections):
            self._places.put(None)

    def ask(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Mapping[str, Any]]:
        return list(self._threads.map(self._ask, observations, seeds))

    def _ask(self, observation: Observation, seed: int) -> Mapping[str, Any]:
        place, connection = None, self._places.get()
        try:
            connection = connection or self._connect()
            connection.send(pack(self._message(observation, seed)))
            answer = connection.recv(self._config.timeout_s)
            if isinstance(answer, str):
                connection.close()
                raise InfrastructureError(f"{self._config.address}: the policy's server says\n{answer[:_SHOWN]}")
            place = connection
            return self._map(answer)
        except (ConnectionClosed, OSError) as error:  # TimeoutError is one of the latter
            if connection is not None:
                connection.close()
            raise Unreachable(str(error) or type(error).__name__) from error
        finally:
            self._places.put(place)

    def _connect(self) -> ClientConnection:
        token = read_token()
        headers = {"Authorization": f"Api-Key {token}"} if token else None
        try:
            connection = connect(
                self._config.address,
                additional_headers=headers,
                compression=None,
                max_size=_MAX_ANSWER,
                open_timeout=self._config.timeout_s,
                proxy=None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403):
                raise wrong_token(self._config.address, f"HTTP status {status}") from error
            raise Unreachable(str(error)) from error
        except InvalidHandshake as error:
            raise Unreachable(str(error)) from error
        try:
            self._check(self._map(connection.recv(self._config.timeout_s)))
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, metadata: Mapping[str, Any]) -> None:
        """Refuse another policy, or one for another robot, where the server says which it serves."""
        served, ours = metadata.get(KEY), self._config.protocol
        if isinstance(served, dict) and ours is not None:
            wrong = sorted(key for key in ours if served.get(key) != ours[key])
            if wrong:
                key, remedy = wrong[0], "serve a policy for this robot, or give the address of a server that does"
                raise BadInput(self._config.address, f"{KEY}.{key}", served.get(key), ours[key], remedy)
        revision = metadata.get("revision")
        if revision is not None and self._config.revision not in (None, revision):
            remedy = "serve the policy that was named; or set base_policy.remote.revision, and run `dvc repro` again"
            raise BadInput(self._config.address, "revision", revision, self._config.revision, remedy)

    def _map(self, message: str | bytes) -> Mapping[str, Any]:
        try:
            value = unpack(message) if isinstance(message, bytes) else None
        except ValueError as error:
            raise self._foreign(str(error)) from error
        if not isinstance(value, dict):
            raise self._foreign(type(value).__name__)
        return value

    def _message(self, observation: Observation, seed: int) -> dict[str, Any]:
        config = self._config
        return {
            **{camera.key: np.asarray(observation.images[name]) for name, camera in config.cameras.items()},
            **{key: observation.proprio[first:end].astype(np.float32) for key, (first, end) in config.state.items()},
            config.instruction: observation.instruction,
            **({config.seed: seed} if config.seed else {}),
        }

    def _foreign(self, found: str) -> BadInput:
        remedy = "see that address and server in config.json are right"
        return BadInput(self._config.address, "", found, "a map, as openpi's server sends it", remedy)
