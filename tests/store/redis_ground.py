"""The ground of the store's conformance suite on real Redis servers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator

from dragonflow.lab.redis import RedisServers
from dragonflow.store.conformance import Ground
from dragonflow.store.protocol import Store
from dragonflow.store.redis import RedisStore

_numbers = itertools.count(1)


def fresh_prefix() -> str:
    """Of keys that nobody used yet."""
    return f"{{dragonflow}}-{os.getpid()}-{next(_numbers)}"


class RedisGround(Ground):
    """A fresh prefix on servers that other tests use too."""

    def __init__(self, servers: RedisServers) -> None:
        self.servers = servers
        self.prefix = fresh_prefix()
        self.url = servers.url_of("dragonflow", prefix=self.prefix)
        self.clients: list[RedisStore] = []

    async def client(self) -> Store:
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
