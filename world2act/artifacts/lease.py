"""Allow one garbage collector at a time, and let publishers wait until it is done.

The holder is the process that wrote the highest number below `collections/`. Numbers are written with If-None-Match, so
only one of several processes wins. A lease expires by the store's clock (the age of its object), so a machine's wrong
clock does not matter.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from world2act_client.errors import Conflict, NotFound
from world2act_client.store import Store

LEASE_S = 900.0
_RENEW_S = 180.0
_LAST_DELETE_S = 540.0  # a request to delete may take minutes with its retries, and has to end before the lease does
_LOOK_S = 1.0
_NUMBER = re.compile(r"collections/(\d{6})\.json")


@dataclass(frozen=True)
class Held:
    """A lease in the store that has not expired."""

    number: int
    owner: str
    left_s: float


@dataclass
class Lease:
    """The right to delete. `written` is this process's monotonic clock just before the lease was last written."""

    store: Store
    number: int
    written: float

    def keep(self) -> None:
        """Renew the lease if it is old. Call this right before deleting.

        Raises:
            Conflict: this process was suspended for so long that another one may have taken over.
        """
        age_s = time.monotonic() - self.written
        if age_s > _LAST_DELETE_S:
            raise _lost(self.store, f"a lease that is {age_s:.0f} s old")
        if age_s > _RENEW_S:
            written = time.monotonic()
            if not self.store.put_new(_key(self.number + 1), _content()):
                raise _lost(self.store, "a lease that another collector took over")
            self.store.delete([_key(self.number)])
            self.number, self.written = self.number + 1, written


@contextmanager
def collector_lease(store: Store) -> Iterator[Lease]:
    """Hold the right to delete from the store. Raises `Conflict` if another collector holds it."""
    if held := _held(store):
        raise _busy(store, held)
    past = _numbers(store)
    written = time.monotonic()
    lease = Lease(store, max(past, default=0) + 1, written)
    if not store.put_new(_key(lease.number), _content()):
        raise _busy(store, Held(lease.number, "another collector", LEASE_S))
    try:
        store.delete(_key(number) for number in past)  # they have expired
        yield lease
    finally:
        store.delete([_key(lease.number)])


def wait_for_collector(store: Store, progress: Callable[[str], None] = print) -> None:
    """Wait until no collector holds a lease.

    Every collector that starts later sees what was published before, and what an earlier one deleted is missing by
    now, so one check of the objects after this call is enough.
    """
    told = False
    while held := _held(store):
        if not told:
            progress(f"{held.owner} is collecting garbage: waiting until it is done, at most {held.left_s:.0f} s")
            told = True
        time.sleep(_LOOK_S)


def _held(store: Store) -> Held | None:
    found = [(key, written) for key, _, _, written in store.list("collections/") if _NUMBER.fullmatch(key)]
    if not found:
        return None
    key, written = found[-1]
    left_s = LEASE_S - (store.clock() - written).total_seconds()
    try:
        return Held(_number(key), json.loads(store.read(key))["owner"], left_s) if left_s > 0 else None
    except NotFound:  # released or renewed meanwhile
        return _held(store)


def _numbers(store: Store) -> list[int]:
    return [_number(key) for key, *_ in store.list("collections/") if _NUMBER.fullmatch(key)]


def _number(key: str) -> int:
    found = _NUMBER.fullmatch(key)
    assert found is not None
    return int(found[1])


def _key(number: int) -> str:
    return f"collections/{number:06d}.json"


def _content() -> bytes:
    return json.dumps({"owner": f"{socket.gethostname()}:{os.getpid()}"}).encode()


def _busy(store: Store, held: Held) -> Conflict:
    return Conflict(
        f"{store.url}/collections",
        f"{held.owner} is collecting garbage",
        "one collector at a time",
        f"wait until it is done; if it was killed, its lease expires in {held.left_s:.0f} s",
    )


def _lost(store: Store, found: str) -> Conflict:
    return Conflict(
        f"{store.url}/collections",
        found,
        f"a lease younger than {_LAST_DELETE_S:.0f} s",
        "this machine was suspended meanwhile; collect garbage again",
    )
