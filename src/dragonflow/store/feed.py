"""The consumer's side of a store: scopes come and go, outages and compactions are made good, the reader only applies news.

A reader that applies each item in turn has the rows of each scope exactly as they stood at some revision, and gets ever nearer
to now. It keeps what it has while the store is away (fail static). Each scope is told in order of revision, whatever of another
comes before or after; where one asked scope lies within another, a row may come for both, and the reader keeps the newer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import msgspec

from dragonflow.store._common import Scopes
from dragonflow.store.protocol import (
    EVERYTHING,
    Changes,
    Compacted,
    Record,
    Snapshot,
    Store,
    StoreError,
    Unavailable,
    Watch,
)

__all__ = ["Backoff", "Changes", "Feed", "ScopeReset"]

LOG = logging.getLogger(__name__)


class ScopeReset(msgspec.Struct, frozen=True):
    """Exactly these records are in the scope at ``revision``; whatever else the reader has of it is gone.

    Its revision may be lower than what was told before only where the store itself went back in time (a restored backup).
    """

    scope: str
    revision: int
    records: tuple[Record, ...]


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before a retry: doubling from ``first`` to ``most`` seconds, less up to half by chance."""

    first: float = 0.05
    most: float = 2.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row; ``chance`` is from 0 to 1."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30)) * (1 - chance / 2)


class Feed:
    """News of a changing set of scopes, as an endless async iterator of ``ScopeReset`` and ``Changes``. For one reader.

    ``ScopeReset`` comes once for every added scope, and again when the changes in between are no longer to be had. ``Changes``
    without records says that the store is back after an outage. Work goes on only while the reader waits for the next
    item, and that wait may be cancelled and taken up again without loss. The iteration ends by cancellation or ``aclose``.

    An ``anchor`` is a scope that is never dropped, and that is read anew with whatever is read, at the same revision: its
    ``ScopeReset`` comes before theirs. So what it holds can say what to make of them.
    """

    def __init__(
        self,
        store: Store,
        *,
        anchor: str | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._backoff = backoff
        self._sleep = sleep
        self._chance = chance
        self._anchor: tuple[str, ...] = () if anchor is None else (anchor,)
        # scope → has been read, so that the watch carries on from there; the anchor is first
        self._wanted: dict[str, bool] = dict.fromkeys(self._anchor, False)
        self._ready: deque[ScopeReset] = deque()  # read, and not yet handed out
        self._revision = 0
        self._watch: Watch | None = None
        self._step: asyncio.Task[Changes | None] | None = None
        self._watching = False  # the step is waiting for changes
        self._failures = 0
        self._error: StoreError | None = None
        self._closed = False

    @property
    def revision(self) -> int:
        """The youngest store revision of which the reader was told something; 0 before the first."""
        return self._revision

    @property
    def last_error(self) -> StoreError | None:
        """Why the store can't be read now; None while it can."""
        return self._error

    @property
    def in_sync(self) -> bool:
        """Every scope asked for has been handed out, and the store answered when last asked."""
        return self._error is None and not self._ready and all(self._wanted.values())

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes asked for."""
        return frozenset(self._wanted)

    async def add(self, scopes: Iterable[str]) -> None:
        """Ask for more scopes (names, or prefixes ending in ``*``); each will be told by a ``ScopeReset``."""
        new = [scope for scope in scopes if scope not in self._wanted]
        Scopes(new)  # refuses what is no scope
        self._wanted.update(dict.fromkeys(new, False))
        if new and self._watching and self._step is not None:
            self._step.cancel()  # read them now; the watch goes on after that, and loses nothing by the interruption

    def drop(self, scopes: Iterable[str]) -> None:
        """Be told no more of these scopes. What the reader has of them is its own to forget."""
        gone = {scope for scope in set(scopes).difference(self._anchor) if self._wanted.pop(scope, None) is not None}
        self._ready = deque(reset for reset in self._ready if reset.scope not in gone)
        if self._watch is not None:
            self._watch.drop(gone)

    def __aiter__(self) -> AsyncIterator[ScopeReset | Changes]:
        return self

    async def __anext__(self) -> ScopeReset | Changes:
        while not self._closed:
            if self._ready:
                return self._hand_out()
            if self._step is None:
                self._step = asyncio.create_task(self._advance())
            if (
                not self._step.done()
            ):  # or wait() would turn the loop even so, and a reader with no time would never get it
                await asyncio.wait({self._step})  # a reader that is cancelled here finds the step again next time
            step, self._step = self._step, None
            changes = None if step.cancelled() else step.result()
            if changes is not None and (news := self._accept(changes)) is not None:
                return news
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the iteration and let go of the watch."""
        self._closed = True
        if self._step is not None:
            self._step.cancel()
            await asyncio.wait({self._step})
        if self._watch is not None:
            await self._watch.aclose()

    # -- what was read, on its way to the reader -----------------------------------------------------------------------

    def _hand_out(self) -> ScopeReset:
        reset = self._ready.popleft()
        self._revision = max(self._revision, reset.revision)
        return reset

    def _accept(self, changes: Changes) -> Changes | None:
        """The part of the changes that the reader wants as things stand now."""
        self._revision = max(self._revision, changes.revision)
        records = changes.records
        if not all(map(self._is_wanted, {record.key.scope for record in records})):
            records = tuple(record for record in records if self._is_wanted(record.key.scope))
        return Changes(changes.revision, records) if records or not changes.records else None

    def _is_wanted(self, scope: str) -> bool:
        """Whether the scope is one of those that were read; of what was asked for again meanwhile, the reading tells all."""
        return any(read and _covers(wanted, scope) for wanted, read in self._wanted.items())

    # -- one step towards the store ------------------------------------------------------------------------------------

    async def _advance(self) -> Changes | None:
        """Read what was never read, or else see that the store is back, or else wait for changes."""
        try:
            if not all(self._wanted.values()):
                await self._read()
            elif self._error is not None:
                await self._store.snapshot(())
                self._recovered()
                return Changes(self._revision, ())
            else:
                return await self._next_changes()
        except Compacted as error:
            lost = error.scopes & self._wanted.keys()
            LOG.info("reading %d scopes again: %s", len(lost), error)
            self._wanted.update(dict.fromkeys(lost, False))
        except StoreError as error:
            self._failed(error)
            await self._sleep(self._backoff.delay(self._failures, self._chance()))
        return None

    async def _read(self) -> None:
        self._wanted.update(dict.fromkeys(self._anchor, False))
        unread = [scope for scope, read in self._wanted.items() if not read]
        snapshot = await self._store.snapshot(unread)
        unread = [scope for scope in unread if self._wanted.get(scope) is False]
        for scope, records in _by_scope(unread, snapshot).items():
            self._wanted[scope] = True
            self._ready.append(ScopeReset(scope, snapshot.revision, records))
        after = dict.fromkeys(unread, snapshot.revision)
        if self._watch is None:
            self._watch = self._store.watch(after)
        else:
            self._watch.add(after)
        self._recovered()

    async def _next_changes(self) -> Changes:
        if self._watch is None:
            self._watch = self._store.watch({})
        self._watching = True
        try:
            return await anext(self._watch)
        except StopAsyncIteration:
            self._watch = None
            self._wanted = dict.fromkeys(self._wanted, False)
            raise Unavailable("the store was closed") from None
        finally:
            self._watching = False

    def _failed(self, error: StoreError) -> None:
        if self._error is None:
            LOG.warning("the DF DB can't be read, going on with what is known: %s", error)
        self._failures += 1
        self._error = error

    def _recovered(self) -> None:
        if self._error is not None:
            LOG.info("the DF DB can be read again, after %d attempts", self._failures)
        self._failures = 0
        self._error = None


def _covers(pattern: str, scope: str) -> bool:
    return scope.startswith(pattern[:-1]) if pattern.endswith(EVERYTHING) else scope == pattern


def _by_scope(scopes: Iterable[str], snapshot: Snapshot) -> dict[str, tuple[Record, ...]]:
    """The records of a snapshot by each asked scope that covers them."""
    found: dict[str, list[Record]] = {scope: [] for scope in scopes}
    patterns = [(scope, scope[:-1]) for scope in found if scope.endswith(EVERYTHING)]
    for record in snapshot.records:
        if record.key.scope in found:
            found[record.key.scope].append(record)
        for pattern, prefix in patterns:
            if record.key.scope.startswith(prefix):
                found[pattern].append(record)
    return {scope: tuple(records) for scope, records in found.items()}
