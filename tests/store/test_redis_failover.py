"""A master with replicas under Sentinels loses its master, or a server comes back with less than it had."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_ground import A, B, Counter, Reader, RedisGround, fresh_prefix, patiently, put

from dragonflow.lab.redis import RedisServers
from dragonflow.lab.system import run, wait_until
from dragonflow.store import keys
from dragonflow.store._redisscripts import Head, Page
from dragonflow.store.draft import transact
from dragonflow.store.keycheck import Audit
from dragonflow.store.protocol import ABSENT, Check, Compacted, Conflict, Record, Txn, Unavailable
from dragonflow.store.redis import RedisStore
from dragonflow.store.redis_client import RedisUrl


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[RedisGround]:
    """A master, two replicas and three Sentinels for one test."""
    with await asyncio.to_thread(RedisServers(tmp_path, tmp_path / "redis").__enter__) as servers:
        ground = RedisGround(servers)
        yield ground
        await ground.close()


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_no_acknowledged_count_is_lost_when_the_master_dies(group: RedisGround, how: str) -> None:
    """Several clients count while the master is killed, or hangs; the old one comes back, and is followed no more."""
    servers = group.servers
    counters = [Counter(await group.client()) for _ in range(4)]
    reader = Reader(await group.client())
    tasks = [asyncio.create_task(counter.count()) for counter in counters]

    async def told(more: int) -> None:
        wanted = sum(len(counter.told) for counter in counters) + more
        async with asyncio.timeout(30):
            while sum(len(counter.told) for counter in counters) < wanted:
                await asyncio.sleep(0.01)

    await told(100)
    old = servers.master()
    pid = old.pid
    assert pid is not None
    if how == "killed":
        await asyncio.to_thread(old.kill)
    else:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(servers.wait_for_another_master, old)
    await told(100)
    if how == "killed":
        await asyncio.to_thread(old.start)
    else:
        os.kill(pid, signal.SIGCONT)
    await told(100)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    numbers = [number for counter in counters for number in counter.told]
    unknown = [number for counter in counters for number in counter.unknown]
    assert len(numbers) == len(set(numbers)), "a number was given to two"
    last = await (await group.client()).get(A)
    assert last is not None
    assert last.data is not None
    final = int(last.data)
    missing = set(range(1, max(numbers) + 1)) - set(numbers) - set(unknown)
    assert not missing, "numbers that nobody counted"
    assert final >= max(numbers), "what was acknowledged is gone"
    await reader.has(A, last.data)
    await reader.end()


async def test_no_key_is_given_twice_when_the_master_dies(group: RedisGround) -> None:
    """Allocations are retried as their callers do, not knowing whether the last attempt came through."""
    servers, pool = group.servers, keys.Pool("some", 1, 1000)
    given: dict[str, int] = {}

    async def allocate(store: RedisStore, name: int) -> None:
        for number in range(25):
            owner = f"{name}.{number}"
            while owner not in given:
                with contextlib.suppress(Unavailable, Conflict):
                    given[owner], _, _ = await transact(
                        store, lambda draft, owner=owner: keys.allocate(draft, pool, owner)
                    )  # type: ignore[misc]
                await asyncio.sleep(0.01)

    allocating = [asyncio.create_task(allocate(await group.client(), name)) for name in range(4)]
    async with asyncio.timeout(60):
        while len(given) < 30:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(servers.master().kill)
        await asyncio.gather(*allocating)
    assert len(set(given.values())) == len(given) == 100
    store = await group.client()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                records = (await store.snapshot([pool.scope])).records
                break
    assert Audit(pool, records, given).problems() == []


async def test_a_switch_in_good_order_is_followed_and_told_in_order(group: RedisGround) -> None:
    """SENTINEL FAILOVER: nobody dies, the old master becomes a replica, and watches go on."""
    store, watcher = await group.client(), await group.client()
    start = await store.commit(put(A, b"0"))
    reader = Reader(watcher)
    await reader.has(A, b"0")
    servers = group.servers
    old = servers.master()
    for server in servers.servers:  # Sentinel may promote either replica, also one that is still copying its master
        wait_until(
            lambda server=server: server.ctl("EXISTS", f"{group.prefix}:store").strip() == "1", "all to follow", 10
        )
    servers.sentinels[0].ctl("SENTINEL", "FAILOVER", "dragonflow")
    await asyncio.to_thread(servers.wait_for_another_master, old)
    revision = await patiently(store, put(A, b"1"))
    assert revision > start + 1_000_000, "a new master leaves room for what the old one may have told"
    await reader.has(A, b"1")
    assert reader.resets == 2, "nobody knows what the old one told last, so all is read anew, once"
    await reader.end()


async def test_a_master_that_hangs_is_left_as_soon_as_the_sentinels_leave_it(group: RedisGround) -> None:
    """Also by a client that asks it nothing: its next request goes to the new master, and doesn't wait for the old."""
    store = await group.client()
    assert isinstance(store, RedisStore)
    await store.commit(put(A))
    old = group.servers.master()
    assert old.pid is not None
    os.kill(old.pid, signal.SIGSTOP)
    await asyncio.to_thread(group.servers.wait_for_another_master, old)
    async with asyncio.timeout(10):
        while store._server._open:
            await asyncio.sleep(0.01)
    assert await store.get(A) is not None
    os.kill(old.pid, signal.SIGCONT)


async def test_a_commit_that_no_replica_has_is_not_acknowledged(group: RedisGround) -> None:
    store = await group.client()
    await store.commit(put(A))
    servers = group.servers
    replicas = [server for server in servers.servers if server is not servers.master()]
    for replica in replicas:
        assert replica.pid is not None
        os.kill(replica.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r"0 of 1 replicas acknowledged|min-replicas-to-write"):
            await store.commit(put(B))
        seen = await store.get(B)  # the master has it; or it refused it, once it saw that its replicas are silent
        check = Check(B, ABSENT if seen is None else seen.revision)
        with pytest.raises(Unavailable, match=r"0 of 1 replicas acknowledged|min-replicas-to-write"):
            await (await group.client()).commit(Txn((), (check,)))
    finally:
        for replica in replicas:
            assert replica.pid is not None
            os.kill(replica.pid, signal.SIGCONT)
    await patiently(store, put(B))


async def test_what_a_lost_master_told_alone_is_told_to_be_void(tmp_path: Path) -> None:
    """A write that only the old master had, and that readers saw, is gone with it: they are told, and its revision is burnt."""
    servers = RedisServers(tmp_path, tmp_path / "redis", size=2, sentinels=0)
    with servers:
        prefix = fresh_prefix()
        first, second = servers.servers
        first.ctl("CONFIG", "SET", "min-replicas-to-write", "0")
        store = RedisStore.of(f"redis://{first.endpoint}?prefix={prefix}&wait=0")
        common = await store.commit(put(A, b"common"))
        wait_until(lambda: second.ctl("EXISTS", f"{prefix}:store").strip() == "1", "the replica to follow", 10)
        second.ctl("REPLICAOF", "NO", "ONE")  # while the other, cut off, goes on
        second.ctl("CONFIG", "SET", "min-replicas-to-write", "0")
        lost = await store.commit(put(B, b"lost"))
        await store.close()
        first.kill()
        store = RedisStore.of(f"redis://{second.endpoint}?prefix={prefix}&wait=0")
        with pytest.raises(Compacted):  # before anybody wrote to the new master
            await anext(store.watch({"net:a": lost}))
        revision = await store.commit(put(B, b"new"))
        assert revision > lost + 1_000_000
        with pytest.raises(Compacted) as compacted:  # and after; also for who was told less, but may have written more
            await anext(store.watch({"net:a": lost, "net:b": common}))
        assert compacted.value.scopes == {"net:a", "net:b"}
        snapshot = await store.snapshot(["net:a"])
        assert snapshot.revision == revision
        assert {record.key: record.data for record in snapshot.records} == {A: b"common", B: b"new"}
        await store.close()


async def test_a_client_that_saw_what_was_lost_never_reads_an_older_revision(tmp_path: Path) -> None:
    """The same client goes on after the server came back with less than it had: revisions still only grow."""
    servers = RedisServers(tmp_path, tmp_path / "redis", size=1, sentinels=0)
    with servers:
        ground = RedisGround(servers)
        store, server = await ground.client(), servers.servers[0]
        await store.commit(put(A, b"old"))
        server.stop()
        saved = tmp_path / "saved"
        run(["cp", "-a", str(server.data), str(saved)])
        server.start()
        await patiently(store, put(A, b"told"))
        newest = (await store.snapshot(["*"])).revision
        server.kill()
        run(["rm", "-rf", str(server.data)])
        saved.rename(server.data)
        server.start()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(Unavailable):
                    snapshot = await store.snapshot(["*"])
                    break
                await asyncio.sleep(0.05)
        assert snapshot.revision > newest
        assert [record.data for record in snapshot.records] == [b"old"]
        with pytest.raises(Compacted):
            await anext(store.watch({"*": newest}))
        await ground.close()


async def test_a_snapshot_of_two_masters_is_none() -> None:
    """Its first pages are of the old master, the next one of the new: what was read of the old doesn't count."""
    store = RedisStore(RedisUrl.parse("redis://127.0.0.1:1"))
    lost, kept = Record(A, b"lost", 98), Record(A, b"kept", 50)
    old, new = Head("us", "1", 90, 0, None, None), Head("us", "1", 2000, 2000, None, None)
    pages = [
        Page(old, [("net:a", 0)], []),
        Page(old._replace(revision=98), [], [lost]),
        Page(new, [], []),
        Page(new, [], [kept]),
    ]

    async def page(_after: object) -> Page:
        return pages.pop(0)

    store._page = page  # type: ignore[method-assign]
    assert (await store.snapshot(["net:a"])).records == (kept,)
    assert not pages
