"""The ground of the store's conformance suite on real Redis servers, and clients that tests of faults keep busy."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator

from dragonflow.lab.redis import RedisServers
from dragonflow.store.conformance import Ground
from dragonflow.store.feed import Feed, ScopeReset
from dragonflow.store.protocol import ABSENT, Check, Conflict, Key, Put, Txn, Unavailable
from dragonflow.store.redis import RedisStore

A, B = Key("net:a", "Thing", "1"), Key("net:a", "Thing", "2")
"""Two rows of one scope."""

_numbers = itertools.count(1)


def fresh_prefix() -> str:
    """Of keys that nobody used yet."""
    return f"{{dragonflow}}-{os.getpid()}-{next(_numbers)}"


class RedisGround(Ground):
    """A fresh prefix on servers that other tests use too."""

    forgetful = True

    def __init__(self, servers: RedisServers) -> None:
        self.servers = servers
        self.prefix = fresh_prefix()
        self.url = servers.url_of("dragonflow", prefix=self.prefix)
        self.clients: list[RedisStore] = []

    async def client(self) -> RedisStore:
        self.clients.append(RedisStore.of(self.url))
        return self.clients[-1]

    @contextlib.asynccontextmanager
    async def compact(self) -> AsyncIterator[None]:
        store = RedisStore.of(self.url)
        await store.compact()
        await store.close()
        yield

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        for server in self.servers.servers:
            await asyncio.to_thread(server.kill)
        yield
        await asyncio.to_thread(self.servers.start)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()


def put(key: Key, data: bytes = b"x", lease: str | None = None) -> Txn:
    return Txn((Put(key, data, lease),))


async def patiently(store: RedisStore, txn: Txn, seconds: float = 20) -> int:
    """Commit as soon as the store can. Only for what may be done twice."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await store.commit(txn)
            except Unavailable:
                await asyncio.sleep(0.05)


class Reader:
    """Follows a scope as consumers do, and checks that revisions never go back nor mean two things."""

    def __init__(self, store: RedisStore) -> None:
        self._feed = Feed(store)
        self.rows: dict[Key, tuple[bytes, int]] = {}
        self.resets = 0
        self.meaning: dict[tuple[Key, int], bytes | None] = {}
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        await self._feed.add(["net:a"])
        async for news in self._feed:
            if isinstance(news, ScopeReset):
                self.resets += 1
                self.rows.clear()
            for record in news.records:
                assert self.meaning.setdefault((record.key, record.revision), record.data) == record.data
                if record.data is None:
                    self.rows.pop(record.key, None)
                else:
                    self.rows[record.key] = record.data, record.revision

    async def has(self, key: Key, data: bytes, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while self.rows.get(key, (b"", 0))[0] != data:
                if self._task.done():
                    await self._task
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._feed.aclose()


class Counter:
    """Counts up in one row by compare-and-swap, and keeps what it was told is done."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.told: list[int] = []
        self.unknown: list[int] = []

    async def count(self) -> None:
        while True:
            try:
                record = await self._store.get(A)
                number = int(record.data or b"") if record else 0
                check = Check(A, record.revision if record else ABSENT)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            try:
                await self._store.commit(Txn((Put(A, b"%d" % (number + 1)),), (check,)))
                self.told.append(number + 1)
            except Conflict:
                await asyncio.sleep(0)
            except Unavailable:
                self.unknown.append(number + 1)
                await asyncio.sleep(0.05)
