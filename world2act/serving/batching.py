"""Requests of several clients → one `Policy.predict`: what waits when the policy is free is run together.

Nobody waits for others to come: a lone request runs at once, and while it runs the next batch gathers. Each request
has its own seed, so that its answer does not depend on who else asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from world2act.errors import World2ActError
from world2act.policies.base import Policy
from world2act.sims.base import Observation


class Refused(World2ActError):
    """A request that the server does not answer, through no fault of what it holds."""


@dataclass(frozen=True)
class Prediction:
    """An action chunk, float32 (chunk_length, action_dim), and how it came about; times in milliseconds."""

    actions: np.ndarray
    wait_ms: float
    infer_ms: float
    batch: int


@dataclass(frozen=True)
class _Request:
    observation: Observation
    seed: int
    came: float
    answer: asyncio.Future[Prediction]


class Batcher:
    """Runs a policy in one thread of its own, used as an asynchronous context manager.

    Args:
        batch: how many requests run together at most.
        waiting: how many may wait; one more is refused.
        timeout_s: how long a request may take, waiting included.
    """

    def __init__(self, policy: Policy, *, batch: int, waiting: int, timeout_s: float) -> None:
        self._policy, self._batch, self._timeout_s = policy, batch, timeout_s
        self._queue: asyncio.Queue[_Request] = asyncio.Queue(waiting)
        self._thread = ThreadPoolExecutor(1, "policy")
        self._began: float | None = None

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        self._thread.shutdown(wait=False)

    @property
    def stuck(self) -> bool:
        """Whether the policy has been at one batch for longer than any request may take."""
        return self._began is not None and time.monotonic() - self._began > self._timeout_s

    async def predict(self, observation: Observation, seed: int) -> Prediction:
        """Queue a request and wait for its answer.

        Raises:
            Refused: too many wait, or it took too long.
            Exception: whatever the policy raised on this observation.
        """
        request = _Request(observation, seed, time.monotonic(), asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            raise Refused(f"busy: {self._queue.maxsize} requests are waiting already; try again later") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await request.answer
        except TimeoutError:
            raise Refused(f"no answer within {self._timeout_s:g} s; try again later") from None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            gathered = [await self._queue.get()]
            while len(gathered) < self._batch and not self._queue.empty():
                gathered.append(self._queue.get_nowait())
            requests = [request for request in gathered if not request.answer.done()]
            if not requests:
                continue
            self._began = time.monotonic()
            answers = await loop.run_in_executor(self._thread, self._run, requests)
            self._began = None
            for request, answer in zip(requests, answers, strict=True):
                if request.answer.done():
                    continue
                if isinstance(answer, Exception):
                    request.answer.set_exception(answer)
                else:
                    request.answer.set_result(answer)

    def _run(self, requests: Sequence[_Request]) -> list[Prediction | Exception]:
        """Answer a batch; where it fails, each request by itself, so that one cannot spoil the others' answers."""
        began = time.monotonic()
        try:
            chunks = self._policy.predict([r.observation for r in requests], [r.seed for r in requests])
            self._check(chunks, len(requests))
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._run([request])]
        infer_ms = (time.monotonic() - began) * 1000
        return [
            Prediction(chunk, (began - request.came) * 1000, infer_ms, len(requests))
            for request, chunk in zip(requests, chunks, strict=True)
        ]

    def _check(self, chunks: np.ndarray, count: int) -> None:
        expected = (count, self._policy.chunk_length, self._policy.action_dim)
        if chunks.shape != expected or not np.isfinite(chunks).all():
            raise ValueError(f"the policy gave {chunks.shape}, not {expected} finite numbers")
