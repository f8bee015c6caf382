"""The DF DB in Redis 7: fast, on one server or on a master with replicas under Sentinels. No cluster.

A commit is one Lua script, so all of it or nothing; the scripts in ``redis_lua`` say where things lie. It returns when as many
replicas as the URL says (``wait``) have it. Who watches is woken by Redis' own messages, one channel a scope, and looks every
second or two all the same, for such messages may be lost. Whoever looks ends the leases whose time has come.

Revisions never go back, also where a fail-over or a restart lost the last writes: docs/decisions/0012.
"""

from __future__ import annotations

import contextlib
import logging
import random
import uuid
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dragonflow.store._common import PolledWatch, Scopes, Wake, check_txn
from dragonflow.store._redisscripts import LAYOUT, LEAP, Head, Page, field, script
from dragonflow.store.protocol import (
    EVERYTHING,
    Changes,
    Compacted,
    Conflict,
    Key,
    LeaseExpired,
    Put,
    Record,
    Snapshot,
    StoreCorrupt,
    Txn,
    Unavailable,
    check_key,
)
from dragonflow.store.redis_client import WAIT_TIMEOUT, Connection, RedisServer, RedisUrl, ReplyError
from dragonflow.store.redis_listener import Listener

LOG = logging.getLogger(__name__)

HISTORY = 100_000
"""How many deletions are remembered for watchers that come late. What is alive needs no history."""

POLL = (1.0, 2.0)
"""Seconds between two looks of a watch that nobody wakes: at random between these, so that not all look at once."""

PAGE = 1000
"""Rows that one script reads at most: it holds the server for about a millisecond."""

PAGE_BYTES = 1 << 20
"""Bytes after which a script reads no further rows."""

BATCH = 100
"""Scopes that one script reads at most while a snapshot is taken piece by piece."""

LOOK = 1000
"""Milliseconds after which somebody should look at the leases again."""


Argument = str | bytes | int
"""Of a command."""

_ATTEMPTS = 5


class RedisStore:
    """A client of the DF DB at a URL. Build it anywhere; connections are opened by the first request, on its event loop."""

    @classmethod
    def of(cls, url: str) -> RedisStore:
        """:raises UnknownStore: naming the part of the URL that is wrong, and the fix."""
        return cls(RedisUrl.parse(url))

    def __init__(self, url: RedisUrl, *, history: int = HISTORY) -> None:
        self._server = RedisServer(url)
        self._root = url.prefix
        self._history = history
        self._identity = ""
        self._newest = 0  # what was told to our callers
        self._due: int | None = None  # ms until a lease ends, as last seen
        self._minding = True  # whether we can end it
        self._wakes: set[Wake] = set()
        self._watches: weakref.WeakSet[_RedisWatch] = weakref.WeakSet()
        self._listener = Listener(self._server, self._heard, self._began, self._lost)
        self._closed = False

    # -- reading -------------------------------------------------------------------------------------------------------

    async def snapshot(self, scopes: Collection[str]) -> Snapshot:
        """See ``Store``."""
        Scopes(scopes)
        for _ in range(_ATTEMPTS):
            try:
                head, found = await self._collect(dict.fromkeys(scopes, 0), fresh=True)
            except Compacted as error:
                LOG.info("reading a snapshot anew: %s", error)
                continue
            return Snapshot(head.revision, tuple(record for record in found.values() if record.data is not None))
        raise Unavailable("the DF DB forgets deletions faster than a snapshot can be read; see the slow log of Redis")

    def watch(self, after: Mapping[str, int]) -> PolledWatch:
        """See ``Store``."""
        return _RedisWatch(self, after)

    async def get(self, key: Key) -> Record | None:
        """See ``Store``."""
        check_key(key)
        _, (data, revision) = await self._read("get", key.scope.encode(), field(key))
        return None if data is None or revision is None else Record(key, data, int(revision))

    async def changes(self, after: Mapping[str, int]) -> Changes:
        """The last state of each record that changed after its scope's revision. :raises Compacted: see ``Watch``."""
        head, found = await self._collect(after, fresh=False)
        self._due = head.due if self._minding else None
        return Changes(head.revision, tuple(sorted(found.values(), key=lambda record: record.revision)))

    async def _collect(self, after: Mapping[str, int], fresh: bool) -> tuple[Head, dict[Key, Record]]:
        """What changed after these revisions, as it stood together at the revision of the head.

        What is too much for one script is read piece by piece, and then what changed meanwhile, until that is little. Who
        begins ``fresh``, at nothing, has missed nothing.

        :raises Compacted: some of it is not known any more.
        """
        found: dict[Key, Record] = {}
        floor, newest = after, after
        while True:
            page = await self._page(floor)
            if not fresh:
                page.refuse_lost(floor)
                page.refuse_lost(newest)  # or a piece may be from a master that is none any more
            _take(found, page.records)
            if not page.rest:
                return page.head, found
            rest = page.rest
            while rest:
                piece = await self._page(dict(rest[:BATCH]))
                _take(found, piece.records)
                rest = piece.rest + rest[BATCH:]
                newest = dict.fromkeys(after, piece.head.revision)
            floor, fresh = dict.fromkeys(after, page.head.revision), False

    async def _page(self, after: Mapping[str, int]) -> Page:
        exact = [(scope, told) for scope, told in after.items() if not scope.endswith(EVERYTHING)]
        prefixes = [(scope[:-1], told) for scope, told in after.items() if scope.endswith(EVERYTHING)]
        flat = [part for scope, told in (*exact, *prefixes) for part in (scope.encode(), told)]
        return Page.of(*await self._read("read", PAGE, PAGE_BYTES, len(exact), *flat))

    async def _read(self, name: str, *arguments: Argument) -> tuple[Head, list[Any]]:
        """Run a script that reads; leases whose time had come, or a store that is another one, are seen to first."""
        minded = False
        for _ in range(_ATTEMPTS):
            identity, newest = self._identity, self._newest  # as they are now: another answer may overtake this one
            async with self._lend() as connection:
                raw, *reply = await self._run(connection, name, arguments)
            head = Head.of(raw)
            if head.layout not in ("", str(LAYOUT)):
                raise self._wrong_layout(head.layout)
            if identity and not head.identity:
                raise self._vanished()
            if identity not in ("", head.identity) or head.revision < newest:
                await self._adopt(newest)
                continue
            self._identity, self._newest = head.identity or self._identity, max(self._newest, head.revision)
            if minded or not await self._mind_leases(head):
                return head, reply
            minded = True
        raise Unavailable(f"the DF DB in Redis at {self._server.where} is being replaced again and again")

    async def _mind_leases(self, head: Head) -> bool:
        """Have a look at the leases if it is time for one; says whether some were ended, so that all is to be read again."""
        if head.due is None or head.age is None or (head.due > 0 and 0 <= head.age < LOOK):
            return False
        try:
            await self._write("lease", "look")
        except Unavailable as error:  # reading goes on all the same
            LOG.debug("leases not looked at: %s", error)
            self._minding = False
            return False
        self._minding = True
        return head.due <= 0 and head.age <= LOOK * 5

    # -- writing -------------------------------------------------------------------------------------------------------

    async def commit(self, txn: Txn) -> int:
        """See ``Store``."""
        check_txn(txn)
        arguments: list[Argument] = [len(txn.checks)]
        for check in txn.checks:
            arguments += (check.key.scope.encode(), field(check.key), check.revision)
        for write in txn.writes:
            arguments += (write.key.scope.encode(), field(write.key))
            arguments += (b"P", write.data, write.lease or b"") if isinstance(write, Put) else (b"D", b"", b"")
        # Also one that only checks waits for the replicas: what it saw may be another's write that none of them has yet.
        reply = await self._write("commit", *arguments, kept=True)
        if reply[0] == b"CONFLICT":
            failed = txn.checks[reply[1] - 1]
            raise Conflict(failed.key, failed.revision, reply[2])
        revision = int(reply[1])
        if self._newest - revision > LEAP // 2:
            raise Unavailable(f"Redis at {self._server.where}: a commit was answered by a master that is none any more")
        return revision

    async def grant_lease(self, ttl: float) -> str:
        """See ``Store``."""
        lease = uuid.uuid4().hex
        await self._write("lease", "grant", lease, max(1, round(ttl * 1000)))
        return lease

    async def keep_alive(self, lease: str) -> None:
        """See ``Store``."""
        await self._write("lease", "keep", lease)

    async def revoke(self, lease: str) -> None:
        """See ``Store``."""
        await self._write("lease", "revoke", lease)

    async def compact(self) -> None:
        """Forget all deletions up to now, as the history's limit does by itself; watchers that missed some start anew."""
        while (await self._write("compact"))[3]:
            pass

    async def _write(self, name: str, *arguments: Argument, kept: bool = False) -> list[Any]:
        """Run a script that writes; if it is to be ``kept``, wait until the replicas have it."""
        for _ in range(_ATTEMPTS):
            newest = self._newest
            head = (self._identity, uuid.uuid4().hex, LAYOUT, self._history)
            async with self._lend() as connection:
                try:
                    reply: list[Any] = await self._run_in_time(connection, name, head, arguments)
                except ReplyError as error:
                    if error.code == "DFLAYOUT":
                        raise self._wrong_layout(str(error).rpartition(" ")[2]) from error
                    if error.code == "DFVANISHED":
                        raise self._vanished() from error
                    if error.code != "DFREPLACED":
                        raise
                else:
                    if kept and reply[0] == b"OK" and connection.wait:
                        await self._wait(connection)
                    break
            await self._adopt(newest)
        else:
            raise Unavailable(f"the DF DB in Redis at {self._server.where} is being replaced again and again")
        if reply[0] == b"GONE":
            raise LeaseExpired(f"lease {reply[1].decode()} is gone")
        if reply[0] == b"OK":
            self._newest, self._identity = max(self._newest, reply[1]), reply[2].decode()
        return reply

    async def _run_in_time(
        self, connection: Connection, name: str, head: Sequence[Argument], arguments: Sequence[Argument]
    ) -> Any:
        """Run a script that writes now or never: a server that gets to it after we have given it up leaves it.

        What came too late by the server's clock was not run. It is sent once more, for the clock may have leapt.
        """
        try:
            return await self._run(connection, name, (*head, connection.latest(), *arguments))
        except ReplyError as error:
            if error.code != "DFLATE":
                raise
            LOG.debug("Redis at %s: %s", self._server.where, error)
            connection.learn_clock(int(str(error).split()[1]))
        return await self._run(connection, name, (*head, connection.latest(), *arguments))

    async def _wait(self, connection: Connection) -> None:
        """:raises Unavailable: too few replicas have what was written here last, so a fail-over may lose it."""
        acknowledged = await connection.call("WAIT", connection.wait, round(WAIT_TIMEOUT * 1000))
        if acknowledged < connection.wait:
            raise Unavailable(
                f"Redis at {self._server.where}: {acknowledged} of {connection.wait} replicas acknowledged a commit within "
                f"{WAIT_TIMEOUT:g} s, so a fail-over may lose it; bring replicas back (or see wait=N in the URL)"
            )

    # -- a store that is another one than before -----------------------------------------------------------------------

    async def _adopt(self, newest: int) -> None:
        """Another store stands where ours was, or ours went back: go on with it, at revisions above all that we told."""
        self._identity, known = "", self._identity
        reply = await self._write("lease", "look")  # a fail-over or restart is told by this alone
        if known not in ("", self._identity) or reply[1] < newest:
            LOG.warning(
                "another DF DB was put in the place of the one in Redis at %s; its records are taken as they are",
                self._server.where,
            )
            await self._write("adopt", newest)

    def _vanished(self) -> Unavailable:
        return Unavailable(
            f"the DF DB in Redis at {self._server.where} has vanished (FLUSHALL, or a restart without persistence): restore a "
            "backup; or, to begin with an empty one, restart the processes that use it and run 'dragonflow repair --fix'"
        )

    def _wrong_layout(self, layout: str) -> StoreCorrupt:
        return StoreCorrupt(
            f"the DF DB in Redis at {self._server.where} has layout {layout}, this version of Dragonflow knows {LAYOUT}: "
            "upgrade this host"
        )

    # -- waking --------------------------------------------------------------------------------------------------------

    needs_hints = False

    def hint(self) -> None:
        """See ``Store``. While Redis itself wakes us, there is nothing to gain by looking more often."""
        if not self._listener.connected:
            self._wake_all()

    def listen(self) -> None:
        """Be woken for what the watches watch now."""
        root = self._channel("")
        self._listener.want({root + scope.encode() for watch in self._watches for scope in watch.scopes})

    def _channel(self, scope: str) -> bytes:
        return f"{self._root}:wake:{scope}".encode()

    def _heard(self, channel: bytes, _data: bytes) -> None:
        scope = channel[len(self._channel("")) :].decode(errors="replace")
        for watch in self._watches:
            watch.look_at(scope)

    def _began(self, _channel: bytes) -> None:
        self._wake_all()  # there may have been changes before

    def _lost(self, _error: Unavailable) -> None:
        self._wake_all()  # they see for themselves, and tell their readers

    def _wake_all(self) -> None:
        for wake in tuple(self._wakes):
            wake()

    def _idle(self) -> float:
        """Seconds until a watch that nobody woke looks again."""
        most = random.uniform(*POLL)
        return most if self._due is None else min(most, max(0, self._due) / 1000 + random.uniform(0.001, 0.1))

    # -- the server ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """See ``Store``."""
        self._closed = True
        wakes = tuple(self._wakes)
        self._wakes.clear()
        for wake in wakes:
            wake()
        await self._listener.close()
        await self._server.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def _lend(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        if self._closed:
            raise Unavailable("the store was closed")
        return self._server.lend()

    async def _run(self, connection: Connection, name: str, arguments: Sequence[Argument]) -> Any:
        run = script(name)
        try:
            return await connection.call("EVALSHA", run.sha, 1, self._root, *arguments)
        except ReplyError as error:
            if error.code != "NOSCRIPT":  # which was not run, so may be asked for again
                raise
        return await connection.call("EVAL", run.text, 1, self._root, *arguments)


class _RedisWatch(PolledWatch):
    """A watch that has its store listen to the wake-ups of its scopes while somebody reads."""

    def __init__(self, store: RedisStore, after: Mapping[str, int]) -> None:
        self._store = store
        self._reading = False
        super().__init__(after, store.changes, store._wakes, store._idle)

    @property
    def scopes(self) -> Collection[str]:
        """What it watches, names and patterns."""
        return self._after

    def look_at(self, scope: str) -> None:
        """There is something new in a scope."""
        if self._wake is not None and scope in self._covered:
            self._wake()

    def add(self, after: Mapping[str, int]) -> None:
        """See ``Watch``."""
        super().add(after)
        self._relisten()

    def drop(self, scopes: Collection[str]) -> None:
        """See ``Watch``."""
        super().drop(scopes)
        self._relisten()

    async def __anext__(self) -> Changes:
        if not self._reading and not self._closed:
            self._reading = True
            self._store._watches.add(self)
            self._relisten()
        return await super().__anext__()

    async def aclose(self) -> None:
        """See ``Watch``."""
        await super().aclose()
        self._store._watches.discard(self)
        self._relisten()

    async def _look(self) -> Changes:
        try:
            return await super()._look()
        except Unavailable:
            if self._store.closed:
                raise StopAsyncIteration from None
            raise

    def _relisten(self) -> None:
        self._covered = Scopes(self._after)
        if self._reading and not self._store.closed:
            self._store.listen()


def _take(found: dict[Key, Record], records: Iterable[Record]) -> None:
    for record in records:
        before = found.get(record.key)
        if before is None or before.revision < record.revision:
            found[record.key] = record
