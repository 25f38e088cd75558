"""Talking to a Prefect server that is starting or overloaded: what it calls temporary is tried again, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

PATIENCE_S = 120.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 10.0
_TEMPORARY = {408, 429, 502, 503, 504}
Result = TypeVar("Result")


def retry_temporary(call: Callable[[], Result], patience_s: float = PATIENCE_S) -> Result:
    """Call until the server accepts the request; only requests that it did not carry out are repeated.

    A busy server answers 503 or 429, and one that is starting refuses connections. Prefect's own client gives up after
    a minute of 503, and at once where it never had a connection.

    Args:
        patience_s: when to give up and raise the last error.
    """
    deadline, delay = time.monotonic() + patience_s, _FIRST_DELAY_S
    while True:
        try:
            return call()
        except httpx.HTTPError as error:
            if not _is_temporary(error) or time.monotonic() + delay > deadline:
                raise
        time.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY_S)


def _is_temporary(error: httpx.HTTPError) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _TEMPORARY
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def start_deployment(
    name: str,
    key: str,
    *,
    parameters: Mapping[str, str] | None = None,
    run_name: str | None = None,
    tags: list[str],
    as_subflow: bool = True,
    timeout_s: float | None = None,
    poll_s: float = 5.0,
) -> FlowRun:
    """Run a deployment once per key, however often this is called, and wait for its end.

    Args:
        name: flow/deployment.
        key: idempotency key; with a key that the server knows, the run that it belongs to is returned.
        timeout_s: how long to wait for the end of the run; 0 returns when it is scheduled, None waits for ever.

    Raises:
        ObjectNotFound: the server has no such deployment.
    """
    run = retry_temporary(
        lambda: run_deployment(
            name,
            parameters=dict(parameters or {}),
            flow_run_name=run_name,
            idempotency_key=key,
            tags=tags,
            as_subflow=as_subflow,
            timeout=timeout_s,
            poll_interval=poll_s,
        )
    )
    assert isinstance(run, FlowRun)  # a coroutine only where this is called from an event loop
    return run
