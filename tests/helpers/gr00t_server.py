"""A policy server that speaks GR00T's protocol, written after Isaac-GR00T's PolicyServer and Gr00tPolicy.

It shares nothing with the client that is tested: arrays by `np.save` and `np.load`, replies as upstream sends them,
observations checked as `Gr00tPolicy.check_observation` checks them.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
import zmq

VIDEO, STATE, LANGUAGE = {"ego_view": 16}, {"arm": 3, "hand": 1}, "annotation.human.task_description"
HORIZON, ACTIONS = 16, {"arm": 2, "hand": 1}
MODALITIES = {
    "video": (list(VIDEO), [0]),
    "state": (list(STATE), [0]),
    "action": (list(ACTIONS), list(range(HORIZON))),
    "language": ([LANGUAGE], [0]),
}


def expected(images: np.ndarray, state: np.ndarray, words: str) -> np.ndarray:
    """The chunk of one observation, (HORIZON, 3): anybody can compute it."""
    return np.tanh(images.mean() / 255 + state.sum() * np.arange(3) + np.arange(HORIZON)[:, None] / (1 + len(words)))


class Gr00tServer:
    """What upstream's `PolicyServer.run` does for a `Gr00tPolicy`; `mood` makes it do something else.

    "nan": actions that are not finite; "silent": no answer; "foreign": no msgpack; "pickle": an object array.
    """

    def __init__(self, token: str | None = None, mood: str = "") -> None:
        self.token, self.mood, self.endpoints = token, mood, []
        self.modalities = dict(MODALITIES)

    def answer(self, request: dict[str, Any]) -> Any:
        if self.token is not None and request.get("api_token") != self.token:
            return {"error": "Unauthorized: Invalid API token"}
        endpoint = request.get("endpoint", "get_action")
        self.endpoints.append(endpoint)
        if endpoint == "ping":
            return {"status": "ok", "message": "Server is running"}
        if endpoint == "get_modality_config":
            return {
                name: {"__ModalityConfig_class__": True, "as_json": {"modality_keys": keys, "delta_indices": steps}}
                for name, (keys, steps) in self.modalities.items()
            }
        if endpoint == "reset":
            return self.reset(**request["data"])
        if endpoint == "get_action":
            return self.get_action(**request["data"])
        return {"error": f"Unknown endpoint: {endpoint}"}

    def reset(self, options: dict[str, Any] | None) -> dict[str, Any]:
        return {}

    def get_action(self, observation: dict[str, Any], options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        video, state, language = (observation[name] for name in ("video", "state", "language"))
        count = len(language[LANGUAGE])
        for key, size in VIDEO.items():
            assert video[key].dtype == np.uint8 and video[key].shape == (count, 1, size, size, 3), f"video {key}"
        for key, width in STATE.items():
            assert state[key].dtype == np.float32 and state[key].shape == (count, 1, width), f"state {key}"
        assert all(
            isinstance(each, list) and isinstance(each[0], str) and len(each) == 1 for each in language[LANGUAGE]
        )
        whole = np.concatenate([state[key] for key in STATE], -1)[:, 0]
        chunks = np.stack(
            [expected(video["ego_view"][i], whole[i], language[LANGUAGE][i][0]) for i in range(count)]
        ).astype(np.float32)
        if self.mood == "nan":
            chunks[:, 2] = np.nan
        return {"arm": chunks[..., :2], "hand": chunks[..., 2:]}, {}


def encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=value.dtype.kind == "O")
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    return value


def decode(value: dict[str, Any]) -> Any:
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False) if "__ndarray_class__" in value else value


@contextmanager
def running_gr00t_server(server: Gr00tServer, port: int = 0) -> Iterator[str]:
    """Serve in another thread; yields tcp://host:port."""
    context, ending = zmq.Context(), threading.Event()
    socket = context.socket(zmq.REP)
    socket.setsockopt(zmq.RCVTIMEO, 50)
    socket.setsockopt(zmq.LINGER, 0)
    opened = (
        socket.bind_to_random_port("tcp://127.0.0.1") if not port else socket.bind(f"tcp://127.0.0.1:{port}") or port
    )

    def run() -> None:
        while not ending.is_set():
            try:
                request = msgpack.unpackb(socket.recv(), object_hook=decode)
            except zmq.Again:
                continue
            try:
                reply = server.answer(request)
            except Exception as error:
                reply = {"error": str(error)}
            if server.mood == "silent" and request["endpoint"] == "get_action":
                ending.wait()
            elif server.mood == "foreign":
                socket.send(b"\xc1")
            elif server.mood == "pickle" and request["endpoint"] == "get_action":
                socket.send(msgpack.packb([{"arm": np.asarray([[[None, {}]]])}, {}], default=encode))
            else:
                socket.send(msgpack.packb(reply, default=encode))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{opened}"
    finally:
        ending.set()
        thread.join()
        socket.close()
        context.term()
