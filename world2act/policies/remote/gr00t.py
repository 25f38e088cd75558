"""GR00T's ZeroMQ protocol, the client's side: REQ/REP, msgpack, arrays as the bytes of .npy files.

Source: gr00t/policy/server_client.py of NVIDIA's Isaac-GR00T (N1.6): endpoints ping, reset, get_modality_config and
get_action, an `api_token` in each request, {"error": ...} where something went wrong. Observations go nested by
modality, as Gr00tPolicy takes them: a server started with its sim wrapper wants other keys, and says so.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import zmq

from world2act.core.errors import BadInput, InfrastructureError
from world2act.policies.remote.configuration import RemoteConfig, Unreachable, read_token, wrong_token
from world2act.sims.base import Observation

_MAX_ANSWER = 64 * 2**20
_SHOWN = 2000


class Gr00tLink:
    """See `world2act.policies.remote.policy.Link`. All observations go in one request, as one batch."""

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        # one per process, never terminated: termination waits for every socket to be closed
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket: zmq.Socket[bytes] | None = None

    def ask(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Mapping[str, Any]]:
        if self._socket is None:
            self._connect()
        answer = self._call("get_action", {"observation": self._batch(observations), "options": None})
        actions = answer[0] if isinstance(answer, list) and len(answer) == 2 else None
        if not isinstance(actions, dict):
            raise self._foreign("get_action", type(answer).__name__, "[actions, info]")
        for key, value in actions.items():
            if not isinstance(value, np.ndarray) or value.ndim != 3 or len(value) != len(observations):
                found = value.shape if isinstance(value, np.ndarray) else type(value).__name__
                raise self._foreign(f"get_action: {key}", found, f"({len(observations)}, steps, width)")
        return [{key: value[i] for key, value in actions.items()} for i in range(len(observations))]

    def _connect(self) -> None:
        self._socket = self._context.socket(zmq.REQ)
        timeout = math.ceil(self._config.timeout_s * 1000)
        options = {zmq.RCVTIMEO: timeout, zmq.SNDTIMEO: timeout, zmq.LINGER: 0, zmq.MAXMSGSIZE: _MAX_ANSWER}
        for option, value in options.items():
            self._socket.setsockopt(option, value)
        self._socket.connect(self._config.address)
        try:
            self._call("ping")
            self._call("reset", {"options": None})
            self._check(self._call("get_modality_config"))
        except Exception:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        """A REQ socket that got no answer can ask no more."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _call(self, endpoint: str, data: Mapping[str, Any] | None = None) -> Any:
        assert self._socket is not None
        token = read_token()
        request = {"endpoint": endpoint} | ({"data": data} if data else {}) | ({"api_token": token} if token else {})
        try:
            self._socket.send(msgpack.packb(request, default=_encode))
            message = self._socket.recv()
        except zmq.Again as error:
            self._disconnect()
            raise Unreachable(f"no answer to {endpoint} within {self._config.timeout_s:g} s") from error
        except zmq.ZMQError as error:
            self._disconnect()
            raise Unreachable(str(error)) from error
        try:
            answer = msgpack.unpackb(message, object_hook=_decode)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise self._foreign(endpoint, str(error), "msgpack with numeric arrays") from error
        if isinstance(answer, dict) and "error" in answer:
            said = str(answer["error"])[:_SHOWN]
            if said.startswith("Unauthorized"):
                raise wrong_token(self._config.address, said)
            raise InfrastructureError(f"{self._config.address}: the policy's server says, to {endpoint}\n{said}")
        return answer

    def _check(self, modalities: Any) -> None:
        """See that the server's policy reads and gives what config.json says, one frame and one state at a time."""
        config = self._config
        expected = {
            "video": {camera.key for camera in config.cameras.values()},
            "state": set(config.state),
            "language": {config.instruction},
            "action": set(config.actions),
        }
        for modality, keys in expected.items():
            entry = modalities.get(modality) if isinstance(modalities, dict) else None
            entry = entry if isinstance(entry, dict) else {}
            found, steps = set(entry.get("modality_keys", [])), len(entry.get("delta_indices", []))
            if found != keys:
                raise self._foreign(f"get_modality_config: {modality}", sorted(found), f"the keys {sorted(keys)}")
            if steps < config.chunk_length if modality == "action" else steps != 1:
                wanted = f"{config.chunk_length} or more" if modality == "action" else "1"
                raise self._foreign(f"get_modality_config: {modality}", f"{steps} steps", wanted)

    def _batch(self, observations: Sequence[Observation]) -> dict[str, dict[str, Any]]:
        """uint8 (B, 1, H, W, 3), float32 (B, 1, D) and B lists of one string."""
        config = self._config
        proprio = np.stack([o.proprio for o in observations]).astype(np.float32)[:, None]
        return {
            "video": {
                camera.key: np.stack([o.images[name] for o in observations])[:, None]
                for name, camera in config.cameras.items()
            },
            "state": {key: proprio[..., first:end] for key, (first, end) in config.state.items()},
            "language": {config.instruction: [[o.instruction] for o in observations]},
        }

    def _foreign(self, what: str, found: object, expected: str) -> BadInput:
        return BadInput(self._config.address, what, found, expected, "see that config.json describes what is served")


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _decode(value: dict[str, Any]) -> Any:
    if "__ndarray_class__" in value:
        return _read_npy(value.get("as_npy"))
    if "__ModalityConfig_class__" in value:
        return value.get("as_json", value.get("as_dict"))
    return value


def _read_npy(content: Any) -> np.ndarray:
    """A numeric array. Its header is checked first: `np.load` would allocate whatever it claims."""
    file = io.BytesIO(content if isinstance(content, bytes) else b"")
    header = (
        np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(file) == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = header(file)
    data = file.read()
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
