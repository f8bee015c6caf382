"""A DF DB in the memory of one process: for tests, and as the plainest statement of what the protocol means.

Stores of the same name share their records, also over threads and event loops. ``hold`` and ``compact`` are the faults that
other drivers suffer from outside; tests use them to see what a consumer does.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from weakref import WeakSet

from dragonflow.store._common import PolledWatch, Scopes, Told, Wake, check_txn, leases_of, refuse_lost
from dragonflow.store.protocol import (
    Changes,
    Check,
    Conflict,
    Delete,
    Key,
    LeaseExpired,
    Put,
    Record,
    Snapshot,
    Txn,
    Unavailable,
    check_key,
)

HISTORY = 10_000
"""How many deletions are remembered for watches that come late. What is alive needs no history."""


class _Lease:
    __slots__ = ("deadline", "keys", "ttl")

    def __init__(self, ttl: float, now: float) -> None:
        self.ttl = ttl
        self.deadline = now + ttl
        self.keys: set[Key] = set()


class Memory:
    """The records that stores of one name share. ``log`` holds the last record of each key, oldest revision first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, history: int = HISTORY) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.history = history
        self.revision = 1
        self.compacted = 0
        self.log: dict[Key, Record] = {}
        self.graves: dict[Key, None] = {}
        self.attached: dict[Key, str] = {}
        self.leases: dict[str, _Lease] = {}
        self.clients: WeakSet[MemoryStore] = WeakSet()
        self.outage: str | None = None

    def write(self, writes: Collection[Put | Delete]) -> int:
        """Give the writes the next revision and wake the watchers."""
        self.revision += 1
        for write in writes:
            data = write.data if isinstance(write, Put) else None
            before = self.log.get(write.key)
            self._detach(write.key)
            if data is None and (before is None or before.data is None):
                continue
            self.log.pop(write.key, None)  # a key's last record stands where its revision belongs, at the end
            self.graves.pop(write.key, None)
            self.log[write.key] = Record(write.key, data, self.revision)
            if data is None:
                self.graves[write.key] = None
            if isinstance(write, Put) and write.lease is not None:
                self.attached[write.key] = write.lease
                self.leases[write.lease].keys.add(write.key)
        self.bury(self.history)
        self.wake()
        return self.revision

    def wake(self) -> None:
        """Let all watches look."""
        for client in tuple(self.clients):
            client.hint()

    def bury(self, history: int) -> None:
        """Forget all but the youngest deletions."""
        while len(self.graves) > history:
            key = next(iter(self.graves))
            del self.graves[key]
            self.compacted = max(self.compacted, self.log.pop(key).revision)

    def end_lease(self, name: str) -> None:
        """Drop a lease and delete what hung on it, in one commit."""
        lease = self.leases.pop(name)
        if lease.keys:
            self.write([Delete(key) for key in sorted(lease.keys)])

    def expire(self) -> float | None:
        """End the leases whose time has come; return the seconds until the next one's has."""
        now = self.clock()
        for name in [name for name, lease in self.leases.items() if lease.deadline <= now]:
            self.end_lease(name)
        return min((lease.deadline for lease in self.leases.values()), default=now) - now if self.leases else None

    def _detach(self, key: Key) -> None:
        name = self.attached.pop(key, None)
        if name is not None and name in self.leases:
            self.leases[name].keys.discard(key)


class MemoryStore:
    """A client of a ``Memory``; without one it has its own."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory if memory is not None else Memory()
        self._wakes: set[Wake] = set()
        self._closed = False
        with self.memory.lock:
            self.memory.clients.add(self)

    async def snapshot(self, scopes: Collection[str]) -> Snapshot:
        """See ``Store``."""
        wanted = Scopes(scopes)
        with self.memory.lock:
            self._look()
            records = tuple(
                record for record in self.memory.log.values() if record.data is not None and record.key.scope in wanted
            )
            return Snapshot(self.memory.revision, records)

    def watch(self, after: Mapping[str, int]) -> PolledWatch:
        """See ``Store``."""
        return PolledWatch(after, self._changes, self._wakes, idle=self._until_expiry)

    async def get(self, key: Key) -> Record | None:
        """See ``Store``."""
        check_key(key)
        with self.memory.lock:
            self._look()
            record = self.memory.log.get(key)
            return None if record is None or record.data is None else record

    async def commit(self, txn: Txn) -> int:
        """See ``Store``."""
        check_txn(txn)
        with self.memory.lock:
            self._look()
            for check in txn.checks:
                self._check(check)
            for lease in leases_of(txn.writes):
                if lease not in self.memory.leases:
                    raise LeaseExpired(f"lease {lease} is gone")
            return self.memory.write(txn.writes) if txn.writes else self.memory.revision

    async def grant_lease(self, ttl: float) -> str:
        """See ``Store``."""
        with self.memory.lock:
            self._look()
            name = uuid.uuid4().hex
            self.memory.leases[name] = _Lease(ttl, self.memory.clock())
            self.memory.wake()  # a watch is to wait no longer than this lease lasts
            return name

    async def keep_alive(self, lease: str) -> None:
        """See ``Store``."""
        with self.memory.lock:
            self._look()
            held = self.memory.leases.get(lease)
            if held is None:
                raise LeaseExpired(f"lease {lease} is gone")
            held.deadline = self.memory.clock() + held.ttl

    async def revoke(self, lease: str) -> None:
        """See ``Store``."""
        with self.memory.lock:
            self._look()
            if lease in self.memory.leases:
                self.memory.end_lease(lease)

    needs_hints = False

    def hint(self) -> None:
        """See ``Store``."""
        for wake in tuple(self._wakes):
            wake()

    async def close(self) -> None:
        """See ``Store``."""
        self._closed = True
        waiting = tuple(self._wakes)
        self._wakes.clear()
        for wake in waiting:
            wake()

    def hold(self, outage: str | None) -> None:
        """From now on every method of every client raises ``Unavailable`` with this text; None ends that."""
        with self.memory.lock:
            self.memory.outage = outage
            self.memory.wake()

    def compact(self) -> None:
        """Forget all deletions up to now."""
        with self.memory.lock:
            self.memory.bury(0)
            self.memory.compacted = self.memory.revision
            self.memory.wake()

    def _look(self) -> float | None:
        if self._closed:
            raise Unavailable("the store was closed")
        if self.memory.outage is not None:
            raise Unavailable(self.memory.outage)
        return self.memory.expire()

    async def _changes(self, after: Mapping[str, int]) -> Changes:
        told = Told(after)
        with self.memory.lock:
            self._look()
            refuse_lost(after, self.memory.compacted, self.memory.revision)
            records: list[Record] = []
            for record in reversed(self.memory.log.values()):
                if record.revision <= told.oldest:
                    break
                if told.is_news(record.key.scope, record.revision):
                    records.append(record)
            records.reverse()
            return Changes(self.memory.revision, tuple(records))

    def _until_expiry(self) -> float | None:
        with self.memory.lock:
            return self._look()

    def _check(self, check: Check) -> None:
        record = self.memory.log.get(check.key)
        found = 0 if record is None or record.data is None else record.revision
        if found != check.revision:
            raise Conflict(check.key, check.revision, found)


_named: dict[str, Memory] = {}
_named_lock = threading.Lock()


def named(name: str) -> Memory:
    """The process's memory of this name, made when first asked for."""
    with _named_lock:
        return _named.setdefault(name, Memory())
