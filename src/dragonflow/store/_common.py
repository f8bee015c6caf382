"""What drivers share: checks of keys, transactions and patterns of scopes, and the watch of stores with one order of commits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Self

from dragonflow.store.protocol import EVERYTHING, Changes, Compacted, Delete, Key, Put, Txn, check_key


class Scopes:
    """The scopes of one snapshot or watch: exact names, and prefixes that were written with a star at the end."""

    __slots__ = ("exact", "prefixes")

    def __init__(self, scopes: Collection[str]) -> None:
        if isinstance(scopes, str):
            raise TypeError(f"scopes must be a collection of names, not the one string {scopes!r}")
        for scope in scopes:
            if not scope or "\0" in scope or "*" in scope[:-1]:
                raise ValueError(f"{scope!r} is no scope: it must not be empty, and a star may stand only at its end")
        self.exact = frozenset(scope for scope in scopes if not scope.endswith(EVERYTHING))
        self.prefixes = tuple(sorted({scope[:-1] for scope in scopes if scope.endswith(EVERYTHING)}))

    def __contains__(self, scope: str) -> bool:
        return scope in self.exact or scope.startswith(self.prefixes)


def check_txn(txn: Txn) -> None:
    """:raises ValueError: a key is not valid or is written twice."""
    seen: set[Key] = set()
    for write in txn.writes:
        check_key(write.key)
        if write.key in seen:
            raise ValueError(f"{write.key}: written twice in one transaction")
        seen.add(write.key)
    for check in txn.checks:
        check_key(check.key)


def leases_of(writes: Collection[Put | Delete]) -> frozenset[str]:
    """The leases that some of the writes are attached to."""
    return frozenset(write.lease for write in writes if isinstance(write, Put) and write.lease is not None)


def refuse_lost(after: Mapping[str, int], kept: int, revision: int) -> None:
    """:raises Compacted: a scope's revision is older than what is ``kept``, or younger than the store's own ``revision``."""
    lost = {scope for scope, told in after.items() if not kept <= told <= revision}
    if lost:
        raise Compacted(f"kept are the changes after revision {kept} up to {revision}; older was asked for", lost)


class Wake:
    """Lets any thread wake a coroutine that waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def __call__(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        """What woke before counts no more."""
        self._event.clear()

    async def wait(self, seconds: float | None) -> None:
        """Wait until woken, but no longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class PolledWatch:
    """The ``Watch`` of a store whose commits stand in one order: reads what changed since it looked last, whenever it is woken.

    ``read`` tells, for scopes and the revision up to which each was told, what is news in them (see ``Told``), in order; it
    raises ``Compacted`` by ``refuse_lost``. ``idle`` tells the seconds to wait at most for a wake-up. The watch's
    ``Wake`` stands in ``wakes`` while somebody reads; the store takes them all out when it is closed, which ends the watch.
    """

    def __init__(
        self,
        after: Mapping[str, int],
        read: Callable[[Mapping[str, int]], Awaitable[Changes]],
        wakes: set[Wake],
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._after: dict[str, int] = {}
        self._read = read
        self._wakes = wakes
        self._idle = idle
        self._wake: Wake | None = None
        self._closed = False
        self.add(after)

    def add(self, after: Mapping[str, int]) -> None:
        """See ``Watch``."""
        Scopes(after)
        self._after.update(after)
        if self._wake is not None:
            self._wake()

    def drop(self, scopes: Collection[str]) -> None:
        """See ``Watch``."""
        for scope in scopes:
            self._after.pop(scope, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        if self._wake is None and not self._closed:
            self._wake = Wake()
            self._wakes.add(self._wake)
        while self._wake is not None and self._wake in self._wakes:
            self._wake.clear()
            news = await self._look()
            if news.records:
                return news
            await self._wake.wait(self._idle())
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """See ``Watch``."""
        self._closed = True
        if self._wake is not None:
            self._wakes.discard(self._wake)
            self._wake()

    async def _look(self) -> Changes:
        asked = dict(self._after)
        if not asked:
            return Changes(0, ())
        try:
            changes = await self._read(asked)
        except Compacted as error:
            self.drop(error.scopes)
            raise
        for scope, revision in asked.items():
            if self._after.get(scope) == revision:  # nobody asked anew meanwhile
                self._after[scope] = changes.revision
        return changes


class Told:
    """Up to which revision each of several scopes was told: what is news, and what isn't. ``oldest`` is the least of these."""

    def __init__(self, after: Mapping[str, int]) -> None:
        self.oldest = min(after.values())
        self._exact = {scope: told for scope, told in after.items() if not scope.endswith(EVERYTHING)}
        self._prefixes = [(scope[:-1], told) for scope, told in after.items() if scope.endswith(EVERYTHING)]

    def is_news(self, scope: str, revision: int) -> bool:
        """Whether a record of this scope and revision was not told for one of the scopes that cover it."""
        if revision > self._exact.get(scope, revision):
            return True
        return any(revision > told and scope.startswith(prefix) for prefix, told in self._prefixes)
