from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from dragonflow.store.conformance import A, B, Ground, StoreConformance, put
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Compacted, Delete, Key, Store, Txn


class MemoryGround(Ground):
    def __init__(self) -> None:
        self.memory = Memory()

    async def client(self) -> Store:
        return MemoryStore(self.memory)

    @contextlib.asynccontextmanager
    async def compact(self) -> AsyncIterator[None]:
        MemoryStore(self.memory).compact()
        yield

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        MemoryStore(self.memory).hold("pulled the plug")
        yield
        MemoryStore(self.memory).hold(None)


class TestMemory(StoreConformance):
    @pytest.fixture
    async def ground(self) -> Ground:
        return MemoryGround()


async def test_only_the_youngest_deletions_are_kept() -> None:
    store = MemoryStore(Memory(history=2))
    keys = [Key("net:a", "Thing", str(i)) for i in range(5)]
    start = await store.commit(put(*keys))
    for key in keys[:4]:
        last = await store.commit(Txn((Delete(key),)))
    with pytest.raises(Compacted):
        await anext(store.watch({"*": start}))
    assert [record.key for record in (await anext(store.watch({"*": last - 2}))).records] == keys[2:4]
    assert len(store.memory.log) == 3


async def test_watches_that_end_are_forgotten() -> None:
    store = MemoryStore()
    start = await store.commit(put(A))
    watches = [store.watch({"*": start}) for _ in range(3)]
    waiting = [asyncio.create_task(anext(watch)) for watch in watches]
    await asyncio.sleep(0)
    assert len(store._wakes) == 3
    for watch in watches:
        await watch.aclose()
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [StopAsyncIteration] * 3
    assert not store._wakes


async def test_time_is_the_clock_s() -> None:
    now = 0.0
    store = MemoryStore(Memory(clock=lambda: now))
    lease = await store.grant_lease(10)
    revision = await store.commit(put(A, lease=lease))
    waiting = asyncio.create_task(anext(store.watch({"*": revision})))
    await asyncio.sleep(0)
    now = 9.9
    assert await store.get(A) is not None
    now = 10.0
    store.hint()
    assert [(record.key, record.data) for record in (await waiting).records] == [(A, None)]


async def test_stores_of_other_threads_and_loops_are_woken() -> None:
    memory = Memory()
    store = MemoryStore(memory)
    waiting = asyncio.create_task(anext(store.watch({"*": (await store.snapshot(())).revision})))
    await asyncio.to_thread(asyncio.run, MemoryStore(memory).commit(put(B)))
    async with asyncio.timeout(10):
        assert [record.key for record in (await waiting).records] == [B]
