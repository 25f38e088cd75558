"""Requests of several clients → one `Policy.predict`: requests that wait when the policy becomes free run together.

No request waits for others to arrive: a single request runs immediately, and the next batch gathers meanwhile. Each
request has its own seed, so that its answer does not depend on the other requests.

The policy runs in a thread of its own, so that the server stays responsive. If its last answers took at most a fifth of
a millisecond, about as long as the way to that thread and back, it runs in the thread of the request instead, until it
takes longer once. No network is that fast, but a rule or a table is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np

from world2act.core.errors import World2ActError
from world2act.policies.base import Policy
from world2act.sims.base import Observation

_QUICK_S = 2e-4
"""About as long as passing a request to a thread and the answer back."""
_QUICK_RUNS = 4


class Refused(World2ActError):
    """A request that the server does not answer, although the request itself is valid."""


class Prediction(NamedTuple):
    """An action chunk, float32 (chunk_length, action_dim), with times in milliseconds and the size of its batch."""

    actions: np.ndarray
    wait_ms: float
    infer_ms: float
    batch: int


class _Request(NamedTuple):
    observation: Observation
    seed: int
    arrived_s: float


class Batcher:
    """Runs a policy in one thread of its own, used as an asynchronous context manager.

    Args:
        batch: the largest number of requests that run together.
        waiting: how many requests may wait; further ones are refused.
        timeout_s: how long a request may take, including the time that it waits.
    """

    def __init__(self, policy: Policy, *, batch: int, waiting: int, timeout_s: float) -> None:
        self._policy, self._batch, self._timeout_s = policy, batch, timeout_s
        self._queue: asyncio.Queue[tuple[_Request, asyncio.Future[Prediction]]] = asyncio.Queue(waiting)
        self._thread = ThreadPoolExecutor(1, "policy")
        self._began: float | None = None
        self._quick_runs = 0

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        self._thread.shutdown(wait=False)

    @property
    def stuck(self) -> bool:
        """Whether the policy has been busy with one batch for longer than any request may take."""
        return self._began is not None and time.monotonic() - self._began > self._timeout_s

    async def predict(self, observation: Observation, seed: int) -> Prediction:
        """Answer a request, after those that arrived before it.

        Raises:
            Refused: too many requests are waiting, or this one took too long.
            Exception: whatever the policy raised on this observation.
        """
        request = _Request(observation, seed, time.monotonic())
        if self._quick_runs >= _QUICK_RUNS and self._began is None and self._queue.empty():
            (result,) = self._run([request])
            if isinstance(result, Exception):
                raise result
            return result
        answer: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((request, answer))
        except asyncio.QueueFull:
            raise Refused(f"busy: {self._queue.maxsize} requests are waiting already; try again later") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError:
            raise Refused(f"no answer within {self._timeout_s:g} s; try again later") from None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            gathered = [await self._queue.get()]
            while len(gathered) < self._batch and not self._queue.empty():
                gathered.append(self._queue.get_nowait())
            awaited = [(request, future) for request, future in gathered if not future.done()]
            if not awaited:
                continue
            self._began = time.monotonic()
            answers = await loop.run_in_executor(self._thread, self._run, [request for request, _ in awaited])
            self._began = None
            for (_, future), answer in zip(awaited, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _run(self, requests: Sequence[_Request]) -> list[Prediction | Exception]:
        """Answer a batch. If it fails, answer its requests one by one, so that one cannot spoil the others' answers."""
        began = time.monotonic()
        try:
            chunks = self._policy.predict([r.observation for r in requests], [r.seed for r in requests])
            self._check(chunks, len(requests))
        except Exception as error:
            self._quick_runs = 0
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._run([request])]
        seconds = time.monotonic() - began
        self._quick_runs = self._quick_runs + 1 if seconds < _QUICK_S else 0
        return [
            Prediction(chunk, (began - request.arrived_s) * 1000, seconds * 1000, len(requests))
            for request, chunk in zip(requests, chunks, strict=True)
        ]

    def _check(self, chunks: np.ndarray, count: int) -> None:
        expected = (count, self._policy.chunk_length, self._policy.action_dim)
        # if every action is finite, so is the sum of their squares: a robot's actions are nowhere near 1e19
        if chunks.shape != expected or not math.isfinite(np.vdot(chunks, chunks)):
            raise ValueError(f"the policy returned {chunks.shape}, not {expected} finite numbers")
