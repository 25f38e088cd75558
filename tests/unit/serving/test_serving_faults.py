"""Mistakes of clients of `world2act serve`: a text frame explains them, and other clients are still served."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.helpers.policy_server import (
    CAMERA,
    PROPRIO,
    SIZE,
    KnownPolicy,
    ask,
    client,
    message,
    observation,
    packed,
    running_server,
)
from world2act.policies.remote.openpi_messages import pack, unpack
from world2act.serving.log import LOGGER
from world2act.serving.server import Limits

IMAGE = f"observation.images.{CAMERA}"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_server(KnownPolicy(), limits=Limits(message_bytes=4 * 2**20), embodiment="sawyer") as address:
        yield address


@pytest.fixture(scope="module")
def bystander(server: str) -> Iterator[ClientConnection]:
    """A client that is connected before another one makes a mistake."""
    with client(server) as connection:
        yield connection


def refusal(connection: ClientConnection) -> str:
    """The text frame, after which the connection is closed with 1011."""
    why = connection.recv(20)
    assert isinstance(why, str)
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    return why


def still_served(bystander: ClientConnection) -> None:
    policy, seen = KnownPolicy(), observation(1)
    np.testing.assert_array_equal(ask(bystander, message(seen, seed=1))["actions"], policy.expected(seen, 1))


def blank(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({IMAGE: None, "observation.images.corner3": blank(SIZE, SIZE, 3)}, [IMAGE, "corner3"]),
        ({IMAGE: blank(SIZE * 2, SIZE * 2, 3)}, [IMAGE, "uint8 (32, 32, 3)", "uint8 (16, 16, 3)"]),
        ({IMAGE: blank(3, SIZE, SIZE)}, [IMAGE, "(3, 16, 16)"]),
        ({IMAGE: blank(SIZE, SIZE, 3, dtype=np.float32)}, [IMAGE, "float32"]),
        ({IMAGE: "a picture"}, [IMAGE, "a str"]),
        ({"observation/image": blank(SIZE, SIZE, 3)}, [IMAGE, "both"]),
        ({"observation.state": None}, ["observation.state", "task"]),
        ({"observation.state": np.asarray([0, 1, np.nan, 3])}, ["observation.state[2]", "nan"]),
        ({"observation.state": np.asarray([0, np.inf, 2, 3], np.float32)}, ["observation.state[1]", "inf"]),
        ({"observation.state": np.asarray([1e300, 0, 0, 0])}, ["observation.state[0]", "1e+300"]),
        ({"observation.state": np.zeros(PROPRIO + 1)}, ["observation.state", "(5,)", "4 finite floats"]),
        ({"observation.state": np.zeros(PROPRIO, np.int64)}, ["observation.state", "int64"]),
        ({"observation.state": [0.0] * PROPRIO}, ["observation.state", "a list"]),
        ({"task": "x" * 2**20}, ["task", "1048576 characters", "2000"]),
        ({"task": "  "}, ["task", "2 characters"]),
        ({"task": 3}, ["task", "a int"]),
        ({"seed": -1}, ["seed"]),
        ({"seed": 1.5}, ["seed", "a float"]),
        ({"seed": True}, ["seed", "a bool"]),
        ({"embodiment": "panda"}, ["embodiment", "panda", "sawyer"]),
        ({"embodiment": 1}, ["embodiment", "a int", "sawyer"]),
    ],
)
def test_a_bad_observation_is_named(
    server: str, bystander: ClientConnection, changes: dict[str, Any], says: list[str]
) -> None:
    with client(server) as connection:
        connection.send(packed(message(observation(), **changes)))
        why = refusal(connection)
    assert all(word in why for word in [*says, "found:", "expected:", "remedy:"]), why
    assert len(why) < 1000
    still_served(bystander)


def array(**changes: Any) -> bytes:
    values = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f8", b"shape": [1]}
    return msgpack.packb({"observation.state": values | {key.encode(): value for key, value in changes.items()}})


BOMB = b"\xdd\x00\x0f\xff\xff" + b"\x90" * 0x0FFFFF


@pytest.mark.parametrize(
    "content",
    [
        "text",
        b"",
        b"\xc1",
        b"\x81",
        msgpack.packb([1]) + b"rest",
        msgpack.packb([1, 2]),
        msgpack.packb("word"),
        array(dtype="|O"),
        array(dtype="|O8"),
        array(dtype="<M8[s]"),
        array(dtype="f4,f4"),
        array(dtype="nonsense"),
        array(dtype=7),
        array(shape=[2]),
        array(shape=[-1]),
        array(shape=[2**62, 4]),
        array(shape="1"),
        array(data="x"),
        array(shape=None),
        BOMB,
        b"\x91" * 100_000,
        msgpack.packb({i: i for i in range(3)}),
        b"\xde\xff\xff" + b"\xa1a\xc0" * 0xFFFF,
    ],
    ids=range(23),
)
def test_what_is_no_message_is_refused(server: str, bystander: ClientConnection, content: str | bytes) -> None:
    with client(server) as connection:
        connection.send(content)
        assert "found:" in refusal(connection)
    still_served(bystander)


def test_objects_go_neither_way() -> None:
    with pytest.raises(TypeError, match="object"):
        pack(np.asarray([None]))
    with pytest.raises(TypeError, match="set"):
        pack({"a": {1}})
    with pytest.raises(ValueError, match="object"):
        unpack(array(dtype="|O"))
    value = {"a": np.arange(6, dtype=">i2").reshape(2, 3), "b": [1, 2.5, None, True, "x", b"y"], "c": np.float32(0.5)}
    back = unpack(pack(value))
    assert back["a"].dtype == value["a"].dtype and (back["a"] == value["a"]).all()
    assert (back["b"], back["c"]) == (value["b"], 0.5)


def test_a_message_beyond_the_limit_is_refused_unread(server: str, bystander: ClientConnection) -> None:
    with client(server) as connection, pytest.raises(ConnectionClosed) as closed:
        connection.send(b"\0" * (5 * 2**20))
        connection.recv(5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    assert "exceeds limit of 4194304 bytes" in closed.value.rcvd.reason
    still_served(bystander)


@pytest.mark.parametrize("instruction", ["fail", "nan"])
def test_a_failing_policy_fails_for_that_client_alone(
    server: str, bystander: ClientConnection, instruction: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER.name), client(server) as connection:
        connection.send(packed(message(observation(instruction=instruction))))
        why = refusal(connection)
    assert why.startswith("internal error") and "secret" not in why
    number = why.split()[2].rstrip(";")
    assert [r.fields["number"] for r in caplog.records if r.getMessage() == "failed"] == [number]
    still_served(bystander)


def test_one_bad_request_does_not_spoil_its_batch(server: str, bystander: ClientConnection) -> None:
    with client(server) as slow, client(server) as bad, client(server) as good:
        slow.send(packed(message(observation(instruction="slow"))))
        time.sleep(0.3)
        bad.send(packed(message(observation(instruction="fail"))))
        still_served(good)
        assert "internal error" in refusal(bad)
        assert isinstance(slow.recv(5), bytes)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Api-Key wrong"}, {"Authorization": "Bearer right"}, {"Authorization": "Api-Key é"}],
)
def test_a_wrong_key_gets_no_connection(headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running_server(KnownPolicy(), api_key="right") as address:
        LOGGER.getChild("websockets").setLevel(logging.WARNING)
        with client(address, additional_headers={"Authorization": "Api-Key right"}) as friend:
            with pytest.raises(InvalidStatus) as refused:
                connect(address, additional_headers=headers)
            assert refused.value.response.status_code == 401
            still_served(friend)
    ours = [json.dumps(getattr(r, "fields", {})) for r in caplog.records if r.name.startswith(LOGGER.name)]
    assert any("no valid API key" in line for line in ours)
    assert not any("right" in line or "Bearer" in line for line in ours)


def test_a_web_page_gets_no_connection(server: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(server, origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_one_client_too_many_is_refused() -> None:
    with running_server(KnownPolicy(), limits=Limits(clients=2)) as address:
        with client(address), client(address):
            with pytest.raises(InvalidStatus) as refused:
                connect(address)
            assert refused.value.response.status_code == 503
        time.sleep(0.1)
        with client(address) as connection:
            still_served(connection)


def test_a_client_that_does_not_read_is_dropped_and_holds_nobody_up() -> None:
    class Wordy(KnownPolicy):
        """Chunks of a megabyte, which soon fill a connection's buffers."""

        chunk_length, action_dim = 1024, 256

        def predict(self, observations: Any, seeds: Any) -> np.ndarray:
            return np.zeros((len(seeds), 1024, 256), np.float32)

    with running_server(Wordy(), limits=Limits(request_s=1.0)) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            body = packed(message(observation()))
            frame = b"\x82" + bytes([128 | 126]) + len(body).to_bytes(2, "big") + b"\0\0\0\0" + body
            deaf.sendall(frame * 20)
            with client(address) as other:
                began = time.monotonic()
                for _ in range(5):
                    assert ask(other, message(observation()))["actions"].shape == (1024, 256)
                assert time.monotonic() - began < 1
            time.sleep(1.5)
            with pytest.raises(OSError):
                for _ in range(50):
                    deaf.sendall(frame)
                    time.sleep(0.05)
