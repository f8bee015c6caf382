from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import pytest

from dragonflow.store.feed import Backoff, Changes, Feed, ScopeReset
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Delete, Key, Put, Record, Store, Txn
from dragonflow.store.sqlite import SqliteStore

A, A2, B = Key("net:a", "Thing", "1"), Key("net:a", "Thing", "2"), Key("net:b", "Thing", "1")


async def nap(seconds: float) -> None:
    """In place of sleep: no time passes."""
    await asyncio.sleep(0)


def put(*keys: Key, data: bytes = b"x") -> Txn:
    return Txn(tuple(Put(key, data) for key in keys))


async def read(feed: Feed) -> ScopeReset | Changes:
    async with asyncio.timeout(10):
        return await anext(feed)


async def nothing(feed: Feed) -> None:
    """The feed says nothing, however often the loop turns; and the wait may be broken off."""
    waiting = asyncio.create_task(anext(feed))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def feed(store: MemoryStore) -> AsyncIterator[Feed]:
    feed = Feed(store, sleep=nap)
    yield feed
    await feed.aclose()


async def test_a_scope_is_told_whole_and_then_by_changes(store: MemoryStore, feed: Feed) -> None:
    revision = await store.commit(put(A, B))
    await feed.add(["net:a"])
    assert not feed.in_sync
    assert await read(feed) == ScopeReset("net:a", revision, (Record(A, b"x", revision),))
    assert feed.in_sync
    assert feed.revision == revision
    await store.commit(put(B))
    change = await store.commit(Txn((Delete(A), Put(A2, b"y"))))
    assert await read(feed) == Changes(change, (Record(A, None, change), Record(A2, b"y", change)))
    assert feed.revision == change


async def test_an_empty_scope_is_told_too(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a", "status:*"])
    assert {(await read(feed)).scope for _ in range(2)} == {"net:a", "status:*"}
    assert feed.in_sync
    await nothing(feed)


async def test_in_sync_only_after_the_last_scope_was_handed_out(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a", "net:b"])
    await read(feed)
    assert not feed.in_sync
    await read(feed)
    assert feed.in_sync


async def test_scopes_added_later_lose_and_repeat_nothing(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a"])
    await read(feed)
    await nothing(feed)  # so that its watch is running
    first = await store.commit(put(A, B))
    await feed.add(["net:b"])
    told = [await read(feed), await read(feed)]
    reset = next(item for item in told if isinstance(item, ScopeReset))
    changes = next(item for item in told if isinstance(item, Changes))
    assert reset == ScopeReset("net:b", first, (Record(B, b"x", first),))
    assert changes == Changes(first, (Record(A, b"x", first),))
    second = await store.commit(put(A, B))
    assert await read(feed) == Changes(second, (Record(A, b"x", second), Record(B, b"x", second)))


async def test_a_scope_added_while_the_reader_waits_is_told_at_once(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a"])
    await read(feed)
    waiting = asyncio.create_task(read(feed))
    for _ in range(5):
        await asyncio.sleep(0)
    await feed.add(["net:b"])
    assert await waiting == ScopeReset("net:b", 1, ())


async def test_a_dropped_scope_is_silent_even_if_its_news_was_under_way(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a", "net:b"])
    await read(feed)
    await read(feed)
    await nothing(feed)
    revision = await store.commit(put(A, B))
    feed.drop(["net:a", "never added"])
    assert await read(feed) == Changes(revision, (Record(B, b"x", revision),))
    assert feed.scopes == {"net:b"}
    await feed.add(["net:a"])
    assert await read(feed) == ScopeReset("net:a", revision, (Record(A, b"x", revision),))


async def test_a_scope_dropped_before_it_was_told_is_never_told(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a", "net:b", "net:c"])
    first = await read(feed)
    assert isinstance(first, ScopeReset)
    feed.drop({"net:a", "net:b", "net:c"} - {first.scope})
    assert feed.in_sync
    await nothing(feed)


async def test_compacted_tells_all_scopes_anew(store: MemoryStore, feed: Feed) -> None:
    await store.commit(put(A, A2))
    await feed.add(["net:*", "other"])
    await read(feed)
    await read(feed)
    await store.commit(Txn((Delete(A),)))
    store.compact()
    told = {item.scope: item for item in [await read(feed), await read(feed)] if isinstance(item, ScopeReset)}
    assert [record.key for record in told["net:*"].records] == [A2]
    assert told["other"].records == ()
    assert feed.in_sync


async def test_an_outage_is_logged_once_and_told_when_it_ends(
    store: MemoryStore, feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await feed.add(["net:a"])
    await read(feed)
    assert feed.in_sync
    store.hold("pulled the plug")
    await nothing(feed)
    assert not feed.in_sync
    assert "pulled the plug" in str(feed.last_error)
    store.hold(None)
    assert await read(feed) == Changes(feed.revision, ())
    assert feed.in_sync
    assert feed.last_error is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    revision = await store.commit(put(A))
    assert await read(feed) == Changes(revision, (Record(A, b"x", revision),))


async def test_a_scope_added_in_an_outage_is_told_after_it(store: MemoryStore, feed: Feed) -> None:
    revision = await store.commit(put(A, B))
    await feed.add(["net:a"])
    await read(feed)
    store.hold("away")
    await nothing(feed)
    await feed.add(["net:b"])
    await nothing(feed)
    store.hold(None)
    assert await read(feed) == ScopeReset("net:b", revision, (Record(B, b"x", revision),))
    assert feed.in_sync


async def test_what_was_written_in_an_outage_is_told_after_it(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a"])
    await read(feed)
    store.hold("away")
    await nothing(feed)
    store.memory.write([Put(A, b"meanwhile")])
    store.hold(None)
    told = [await read(feed), await read(feed)]
    assert [item.records[0].data for item in told if item.records] == [b"meanwhile"]


def test_backoff_grows_to_its_limit_with_jitter() -> None:
    backoff = Backoff(first=0.1, most=2.0)
    assert [backoff.delay(failures, 0) for failures in (1, 2, 3, 6, 5000)] == [0.1, 0.2, 0.4, 2.0, 2.0]
    assert backoff.delay(1, 1) == 0.05


async def test_a_reader_that_gives_up_waiting_loses_nothing(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a"])
    await read(feed)
    seen: list[int] = []
    for _ in range(100):
        waiting = asyncio.create_task(anext(feed))
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        revision = await store.commit(put(A))
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
        for item in await asyncio.gather(waiting, return_exceptions=True):
            if isinstance(item, Changes):
                seen.append(item.revision)
    while not seen or seen[-1] < revision:
        seen.append((await read(feed)).revision)
    assert seen == sorted(set(seen))


async def test_closing_ends_the_iteration(store: MemoryStore, feed: Feed) -> None:
    await feed.add(["net:a"])
    await read(feed)
    waiting = asyncio.create_task(anext(feed, None))
    await asyncio.sleep(0)
    await feed.aclose()
    assert await waiting is None
    assert not store._wakes


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_reader_s_rows_equal_the_store_s_whatever_happens(driver: str, seed: int, tmp_path: object) -> None:
    """Random writes, scopes coming and going, outages and compactions; in the end the rows are the store's."""
    rng = random.Random(seed)
    memory = Memory(history=5)
    stores: list[Store] = (
        [MemoryStore(memory), MemoryStore(memory)]
        if driver == "memory"
        else [SqliteStore(f"{tmp_path}/db", history=5), SqliteStore(f"{tmp_path}/db", history=5)]
    )
    writer, reader = stores
    feed = Feed(reader, sleep=nap)
    rows: dict[str, dict[Key, tuple[bytes, int]]] = {}

    def apply(item: ScopeReset | Changes) -> None:
        if isinstance(item, ScopeReset):
            assert item.scope in feed.scopes
            rows[item.scope] = {record.key: (record.data or b"", record.revision) for record in item.records}
            return
        for record in item.records:
            scopes = [
                s
                for s in feed.scopes
                if s == record.key.scope or (s[-1] == "*" and record.key.scope.startswith(s[:-1]))
            ]
            assert scopes, f"{record.key} was not asked for"
            for scope in [scope for scope in scopes if scope in rows]:
                if record.data is None:
                    rows[scope].pop(record.key, None)
                else:
                    rows[scope][record.key] = (record.data, record.revision)

    async def consume() -> None:
        async for item in feed:
            apply(item)

    consuming = asyncio.create_task(consume())
    names = ["net:1", "net:2", "net:3", "status:*", "net:*"]
    for step in range(150):
        match rng.randrange(8):
            case 0:
                await feed.add(rng.sample(names, 2))
            case 1:
                gone = rng.sample(names, 1)
                feed.drop(gone)
                rows.pop(gone[0], None)
            case 2 if driver == "memory":
                memory.outage = "away"
                for _ in range(rng.randrange(10)):
                    await asyncio.sleep(0)
                memory.outage = None
            case _:
                keys = {
                    Key(rng.choice(["net:1", "net:2", "net:3", "status:h"]), "T", str(rng.randrange(4)))
                    for _ in range(3)
                }
                writes = [Delete(key) if rng.random() < 0.4 else Put(key, str(step).encode()) for key in sorted(keys)]
                await writer.commit(Txn(tuple(writes)))
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
    await feed.add(["end"])
    last = await writer.commit(put(Key("end", "T", "1")))
    async with asyncio.timeout(20):
        while feed.revision < last or not feed.in_sync:
            await asyncio.sleep(0.001)
    assert not consuming.done()
    for scope in feed.scopes:
        truth = await writer.snapshot([scope])
        assert rows[scope] == {record.key: (record.data, record.revision) for record in truth.records}
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    await feed.aclose()
    for store in stores:
        await store.close()


async def test_an_anchor_is_read_first_with_whatever_is_read_and_never_dropped(store: MemoryStore) -> None:
    anchor = Key("region", "Thing", "1")
    feed = Feed(store, anchor="region", sleep=nap)
    try:
        assert await read(feed) == ScopeReset("region", 1, ())
        written = await store.commit(put(anchor, A))
        await feed.add(["net:a"])
        assert await read(feed) == ScopeReset("region", written, (Record(anchor, b"x", written),))
        assert await read(feed) == ScopeReset("net:a", written, (Record(A, b"x", written),))
        feed.drop(["net:a", "region"])
        again = await store.commit(put(anchor))
        assert await read(feed) == Changes(again, (Record(anchor, b"x", again),))
        await feed.add(["net:a"])
        assert [(await read(feed)).scope for _ in range(2)] == ["region", "net:a"]
    finally:
        await feed.aclose()
