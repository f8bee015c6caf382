"""What can happen to Redis servers, and what the store makes of it: nothing acknowledged is lost, and nothing goes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis_ground import A, B, Counter, Reader, RedisGround, fresh_prefix, patiently, put

from dragonflow.lab.redis import RedisMember, RedisServers
from dragonflow.lab.system import LabError, run, wait_until
from dragonflow.store import UnknownStore, open_store
from dragonflow.store.conformance import Follower
from dragonflow.store.protocol import (
    ABSENT,
    Check,
    Compacted,
    Delete,
    Key,
    Put,
    StoreCorrupt,
    Txn,
    Unavailable,
)
from dragonflow.store.redis import RedisStore
from dragonflow.store.redis_client import RedisUrl


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    home = tmp_path_factory.mktemp("single")
    with RedisServers(home, home / "redis", size=1, sentinels=0) as servers:
        yield servers


@pytest.fixture
async def ground(single: RedisServers) -> AsyncIterator[RedisGround]:
    ground = RedisGround(single)
    yield ground
    await ground.close()


@pytest.fixture
async def store(ground: RedisGround) -> RedisStore:
    return await ground.client()


# -- one server -------------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_survives_a_kill_of_the_server(single: RedisServers, store: RedisStore) -> None:
    counter = Counter(store)
    task = asyncio.create_task(counter.count())
    for _ in range(3):
        wanted = len(counter.told) + 50
        async with asyncio.timeout(10):
            while len(counter.told) < wanted:
                await asyncio.sleep(0.005)
        await asyncio.to_thread(single.servers[0].kill)
        await asyncio.to_thread(single.servers[0].start)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    record = await store.get(A)
    assert record is not None
    assert int(record.data or b"") >= max(counter.told)
    assert counter.told == sorted(set(counter.told))


async def test_a_server_that_hangs_is_noticed_and_its_return_too(single: RedisServers, ground: RedisGround) -> None:
    """What was given up meanwhile is not done then: somebody else may have written since."""
    store, watcher = await ground.client(), await ground.client()
    await store.commit(put(A))
    reader = Reader(watcher)
    await reader.has(A, b"x")
    server = single.servers[0]
    assert server.pid is not None
    before = late(server)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(6):
            with pytest.raises(Unavailable, match="did not answer in time"):
                await store.commit(put(B))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await patiently(store, put(A, b"back"))
    assert await store.get(B) is None
    assert late(server) == before + 1, "it found the commit in its buffer"
    await reader.has(A, b"back")
    assert reader.resets == 1
    await reader.end()


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_leap_of_the_servers_clock_disturbs_no_write(
    single: RedisServers, store: RedisStore, hours: int
) -> None:
    """What the client knows of that clock is wrong by an hour: the server refuses once, and the write is sent again."""
    await store.commit(put(A))
    (connection,) = store._server._open
    connection._ahead -= hours * 3600
    before = late(single.servers[0])
    await store.commit(put(B))
    await store.commit(put(B))
    assert late(single.servers[0]) == before + 1


def late(server: RedisMember) -> int:
    """How many writes the server left because they came too late."""
    return int(server.info("errorstats").get("errorstat_DFLATE", "count=0").partition("=")[2])


async def test_a_watch_goes_on_without_wake_ups(ground: RedisGround, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis' messages may be lost; the slow look finds the change all the same."""
    store, watcher = await ground.client(), await ground.client()
    start = await store.commit(put(A))
    monkeypatch.setattr(watcher, "_heard", lambda *_: None)
    monkeypatch.setattr(watcher._listener, "_heard", lambda *_: None)
    follower = Follower(watcher, ["*"], start, ground)
    await follower.told(B, await store.commit(put(B)))
    second = await store.commit(put(A))
    await follower.told(A, second)
    await follower.end()


async def test_an_expired_lease_is_told_within_a_second(ground: RedisGround) -> None:
    """Nobody but a watcher is there to see it."""
    holder, watcher = await ground.client(), await ground.client()
    lease = await holder.grant_lease(2)
    start = await holder.commit(put(A, lease=lease))
    began = asyncio.get_running_loop().time()
    await holder.close()
    follower = Follower(watcher, ["*"], start, ground)
    await follower.told(A, start + 1)
    assert 1.9 < asyncio.get_running_loop().time() - began < 3
    await follower.end()


@pytest.mark.parametrize("hours", [1, -1])
async def test_leases_outlive_leaps_of_the_clock_and_outages(ground: RedisGround, hours: int) -> None:
    """The server's clock leaps, or nobody could look for an hour: a lease has about the time left that it had before."""
    store, watcher = await ground.client(), await ground.client()
    lease = await store.grant_lease(3)
    start = await store.commit(put(A, lease=lease))
    server = ground.servers.servers[0]
    leap = (
        hours * 3_600_000
    )  # that the clock went on is the same as that all that was noted of it lies so much further back
    seen = int(server.ctl("HGET", f"{ground.prefix}:store", "seen"))
    server.ctl(
        "EVAL",
        "redis.call('HSET', KEYS[1], 'seen', ARGV[1]) redis.call('ZINCRBY', KEYS[2], ARGV[2], ARGV[3])",
        *("2", f"{ground.prefix}:store", f"{ground.prefix}:leases", str(seen - leap), str(-leap), lease),
    )
    began = asyncio.get_running_loop().time()
    follower = Follower(watcher, ["*"], start, ground)
    assert await store.get(A) is not None
    await store.keep_alive(lease)
    await follower.told(A, start + 1)
    assert 2.5 < asyncio.get_running_loop().time() - began < 4.5
    await follower.end()


async def test_a_store_that_vanished_is_an_outage_and_never_an_empty_one(ground: RedisGround) -> None:
    store, watcher = await ground.client(), await ground.client()
    await store.commit(put(A))
    reader = Reader(watcher)
    await reader.has(A, b"x")
    server = ground.servers.servers[0]
    for key in server.ctl("--scan", "--pattern", f"{ground.prefix}:*").split():
        server.ctl("DEL", key)
    for request in (store.commit(put(B)), store.snapshot(["*"]), store.get(A), store.grant_lease(60)):
        with pytest.raises(Unavailable, match="has vanished"):
            await request
    assert reader.rows
    # Somebody begins with an empty one, knowingly: its revisions are above all that was told.
    fresh = await ground.client()
    revision = await fresh.commit(put(B, b"fresh"))
    await reader.has(B, b"fresh")
    assert A not in reader.rows
    assert await store.commit(put(B, b"on")) > revision
    await reader.has(B, b"on")
    await reader.end()


async def test_what_others_did_to_the_rows_is_mended_by_writing_them(ground: RedisGround) -> None:
    """Somebody deletes and adds rows with redis-cli. Reading shows it (but for what has no revision), and writing mends it."""
    store, server = await ground.client(), ground.servers.servers[0]
    start = await store.commit(Txn((Put(A, b"x"), Put(B, b"x"))))
    server.ctl("EVAL", "redis.call('DEL', KEYS[1])", "1", f"{ground.prefix}:rows:net:a")
    server.ctl("EVAL", "redis.call('HSET', KEYS[1], 'Thing\\0003', 'x')", "1", f"{ground.prefix}:rows:net:a")
    foreign = Key("net:a", "Thing", "3")
    assert (await store.snapshot(["*"])).records == ()
    assert await store.get(foreign) is None
    await store.commit(Txn((Delete(A), Put(B, b"again"), Put(foreign, b"ours")), (Check(foreign, ABSENT),)))
    changes = await anext(store.watch({"*": start}))
    assert {record.key: record.data for record in changes.records} == {A: None, B: b"again", foreign: b"ours"}
    server.ctl("EVAL", "redis.call('ZADD', KEYS[1], 9, 'nonsense')", "1", f"{ground.prefix}:log:net:a")
    with pytest.raises(StoreCorrupt, match="did not write"):
        await store.snapshot(["*"])


async def test_a_script_of_somebody_else_makes_it_unavailable(single: RedisServers, store: RedisStore) -> None:
    server = single.servers[0]
    await store.commit(put(A))
    server.ctl("CONFIG", "SET", "busy-reply-threshold", "50")

    async def on_and_on() -> None:
        while True:
            await store.commit(put(A))

    busy = subprocess.Popen(
        ["redis-cli", "-p", str(server.port), "EVAL", "while true do end", "0"], stdout=subprocess.DEVNULL
    )
    try:
        with pytest.raises(Unavailable, match="a script of somebody else"):
            await asyncio.wait_for(on_and_on(), 10)
    finally:
        wait_until(lambda: "OK" in server.ctl("SCRIPT", "KILL"), "the script to be killed", 10)
        busy.wait()
    await patiently(store, put(A))


async def test_many_rows_are_read_in_pages_at_one_revision(
    ground: RedisGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot of many pages, while others write: two rows that always change together never differ in it."""
    monkeypatch.setattr("dragonflow.store.redis.PAGE", 20)
    monkeypatch.setattr("dragonflow.store.redis.BATCH", 3)
    store, writer = await ground.client(), await ground.client()
    keys = [Key(f"net:{i % 13}", "Thing", str(i)) for i in range(1000)]
    for i in range(0, 1000, 250):
        await store.commit(Txn(tuple(Put(key, b"0") for key in keys[i : i + 250])))

    async def write() -> None:
        number = 0
        while True:
            number += 1
            pair = keys[number % 500], keys[number % 500 + 500]
            gone = number % 7 == 0
            await writer.commit(Txn(tuple(Delete(key) if gone else Put(key, b"%d" % number) for key in pair)))

    writing = asyncio.create_task(write())
    for scopes in (["*"], ["net:*"], [f"net:{i}" for i in range(13)], ["net:1*", "net:2", "net:12"]) * 3:
        snapshot = await store.snapshot(scopes)
        rows = {record.key: record for record in snapshot.records}
        assert len(rows) == len(snapshot.records)
        assert all(record.revision <= snapshot.revision for record in snapshot.records)
        for one, other in zip(keys[:500], keys[500:], strict=True):
            if "net:1*" not in scopes:
                assert (one in rows) == (other in rows)
                assert one not in rows or rows[one].data == rows[other].data
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    changes = await store.changes({"*": 4})
    truth = {record.key: record for record in (await store.snapshot(["*"])).records}
    assert {record.key for record in changes.records if record.data is not None} <= truth.keys()
    assert [record.revision for record in changes.records] == sorted(record.revision for record in changes.records)


async def test_a_commit_larger_than_a_page_stays_whole(ground: RedisGround) -> None:
    store, watcher = await ground.client(), await ground.client()
    start = (await store.snapshot(())).revision
    keys = [Key("net:a", "Thing", str(i)) for i in range(9000)]
    revision = await store.commit(Txn(tuple(Put(key, b"x") for key in keys)))
    changes = await anext(watcher.watch({"net:a": start}))
    assert len(changes.records) == 9000
    assert {record.revision for record in changes.records} == {revision}


async def test_deletions_are_forgotten_beyond_the_history(ground: RedisGround) -> None:
    store = RedisStore(RedisUrl.parse(ground.url), history=10)
    start = await store.commit(put(A))
    for i in range(30):
        key = Key(f"gone:{i}", "Thing", "1")
        await store.commit(put(key))
        await store.commit(Txn((Delete(key),)))
    with pytest.raises(Compacted):
        await anext(store.watch({"*": start}))
    server = ground.servers.servers[0]
    assert server.ctl("ZCARD", f"{ground.prefix}:graves").strip() == "10"
    assert server.ctl("ZCARD", f"{ground.prefix}:scopes").strip() == "11"
    await store.close()


# -- servers that can't, or that one can't get at -----------------------------------------------------------------------


async def test_a_full_disk_refuses_writes_and_lets_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)])
    try:
        servers = RedisServers(tmp_path, tmp_path / "redis", size=1, sentinels=0, options={"dir": str(disk)})
        with servers:
            ground = RedisGround(servers)
            store = await ground.client()
            lease = await store.grant_lease(60)
            revision = await store.commit(put(A, b"kept", lease))
            with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
                while True:
                    filler.write(bytes(4096))

            async def fill() -> None:
                while True:
                    await store.commit(put(B, os.urandom(10_000)))

            with pytest.raises(Unavailable, match=r"can't write to its disk: make room"):
                await asyncio.wait_for(fill(), 20)
            with pytest.raises(Unavailable, match="make room"):
                await store.keep_alive(lease)
            assert (await store.get(A)) is not None
            assert (await store.snapshot(["*"])).revision >= revision
            (disk / "filler").unlink()
            await patiently(store, put(B))
            await store.keep_alive(lease)
            await ground.close()
    finally:
        run(["umount", "-l", str(disk)])


async def test_a_server_that_would_evict_rows_is_refused(single: RedisServers, ground: RedisGround) -> None:
    server = single.servers[0]
    server.ctl("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.ctl("CONFIG", "SET", "maxmemory", "100mb")
    try:
        with pytest.raises(Unavailable, match="CONFIG SET maxmemory-policy noeviction"):
            await (await ground.client()).commit(put(A))
    finally:
        server.ctl("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.ctl("CONFIG", "SET", "maxmemory", "0")
    await (await ground.client()).commit(put(A))


async def test_a_server_out_of_memory_refuses_writes_and_lets_read(single: RedisServers, store: RedisStore) -> None:
    await store.commit(put(A))
    single.servers[0].ctl("CONFIG", "SET", "maxmemory", "1kb")
    try:
        with pytest.raises(Unavailable, match="raise maxmemory"):
            await store.commit(put(B))
        assert await store.get(A) is not None
    finally:
        single.servers[0].ctl("CONFIG", "SET", "maxmemory", "0")
    await store.commit(put(B))


async def test_no_append_only_file_is_warned_of_once(
    single: RedisServers, ground: RedisGround, caplog: pytest.LogCaptureFixture
) -> None:
    single.servers[0].ctl("CONFIG", "SET", "appendonly", "no")
    try:
        store = await ground.client()
        await asyncio.gather(*(store.commit(put(Key("s", "k", str(i)))) for i in range(10)))
    finally:
        single.servers[0].ctl("CONFIG", "SET", "appendonly", "yes")
    assert len([record for record in caplog.records if "appendonly yes" in record.message]) == 1


async def test_a_replica_is_no_server_to_write_to(tmp_path: Path) -> None:
    with RedisServers(tmp_path, tmp_path / "redis", size=2, sentinels=0) as servers:
        store = open_store(f"redis://{servers.servers[1].endpoint}")
        with pytest.raises(Unavailable, match=r"it is a replica.*redis\+sentinel"):
            await store.snapshot(["*"])
        await store.close()


async def test_another_layout_is_refused(ground: RedisGround, store: RedisStore) -> None:
    await store.commit(put(A))
    ground.servers.servers[0].ctl("HSET", f"{ground.prefix}:store", "layout", "99")
    for request in (store.commit(put(B)), store.snapshot(["*"])):
        with pytest.raises(StoreCorrupt, match="layout 99"):
            await request


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    home = tmp_path_factory.mktemp("guarded")
    with RedisServers(home, home / "redis", size=1, sentinels=0, tls=True, auth=True) as servers:
        yield servers


async def refused(url: str) -> str:
    store = open_store(url)
    try:
        with pytest.raises(Unavailable) as error:
            await store.commit(put(A))
        return str(error.value)
    finally:
        await store.close()


async def test_who_may_not_is_told_why(
    guarded: RedisServers, single: RedisServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, ca = guarded.servers[0].endpoint, guarded.certificates.ca
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    wrong.chmod(0o600)
    assert "it refuses the user or the password" in await refused(
        f"redis+tls://dragonflow@{endpoint}?password_file={wrong}&ca={ca}"
    )
    assert "it asks for a password" in await refused(f"redis+tls://{endpoint}?ca={ca}")
    assert "certificate is not good" in await refused(guarded.url.partition("&ca=")[0])
    assert "whether it speaks TLS" in await refused(f"redis://{endpoint}")
    with monkeypatch.context() as patch:  # such a server waits for more
        patch.setattr("dragonflow.store.redis_client.CONNECT_TIMEOUT", 0.5)
        assert "speaks no TLS" in await refused(f"redis+tls://{single.servers[0].endpoint}?ca={ca}")
    assert "dragonflow db roles" in await refused(guarded.url_of("dragonflow", prefix="somebody-else"))
    wrong.chmod(0o644)
    assert "chmod" in await refused(f"redis+tls://dragonflow@{endpoint}?password_file={wrong}&ca={ca}")
    wrong.unlink()
    assert str(wrong) in await refused(f"redis+tls://dragonflow@{endpoint}?password_file={wrong}&ca={ca}")
    assert f"ca={wrong}" in await refused(f"redis+tls://{endpoint}?ca={wrong}")
    tls = guarded.certificates
    tls.key.chmod(0o604)  # the server has read it
    assert f"key={tls.key} is open to every user" in await refused(f"{guarded.url}&cert={tls.cert}&key={tls.key}")
    tls.key.chmod(0o600)
    secret = guarded.password_file("dragonflow").read_text()
    assert secret not in repr(vars(open_store(guarded.url)))


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    assert "can't be reached" in await refused("redis://127.0.0.1:1")
    assert "can't be reached" in await refused(f"redis+unix://{tmp_path}/none")
    assert "no Sentinel answers" in await refused("redis+sentinel://127.0.0.1:1,127.0.0.1:2/dragonflow")


async def test_a_unix_socket_and_a_database_of_its_own_will_do(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServers(tmp_path, tmp_path / "redis", size=1, sentinels=0, options={"unixsocket": str(socket)}):
        one, two = open_store(f"redis+unix://{socket}"), open_store(f"redis+unix://{socket}?db=1")
        await one.commit(put(A))
        assert await one.get(A) is not None
        assert await two.get(A) is None
        await one.close()
        await two.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://", "HOST:PORT"),
        ("redis://host", "HOST:PORT"),
        ("redis://host:99999", "port"),
        ("redis://a:1,b:2", "only Sentinels"),
        ("redis://host:6379/x", "database 'x'"),
        ("redis://user:secret@host:6379", "password to|holds a password"),
        ("redis://host:6379?wait=-1", "wait '-1'"),
        ("redis://host:6379?nonsense=1", "no option 'nonsense'"),
        ("redis+tls+unix:///x", "no scheme"),
        ("redis+unix://", "no socket"),
        ("redis+unix://host/x", "where the path"),
        ("redis+sentinel://host:26379", "by which name"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, reason: str) -> None:
    with pytest.raises(UnknownStore, match=reason) as error:
        open_store(url)
    assert "secret" not in str(error.value)


# -- processes --------------------------------------------------------------------------------------------------------

FORK = """
import os, sys
from dragonflow.store.blocking import BlockingStore, Portal
from dragonflow.store.protocol import Key, Put, Txn
portal = Portal()
store = BlockingStore(portal, sys.argv[1])
def put(name): return store.commit(Txn((Put(Key("net:a", "Thing", name), b"x"),)))
put("before")
feed = store.feed(["net:a"])
assert feed.next(5) is not None
child = os.fork()
if child == 0:
    put("child")
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
put("parent")
seen = {record.key.id for record in store.snapshot(["net:a"]).records}
assert seen == {"before", "child", "parent"}, seen
told = set()
while told != {"child", "parent"}:
    told |= {record.key.id for record in feed.next(5).records}
feed.close()
store.close()
portal.close()
"""


def test_threads_and_forks_have_connections_of_their_own(single: RedisServers) -> None:
    url = single.url_of("dragonflow", prefix=fresh_prefix())
    done = subprocess.run([sys.executable, "-c", FORK, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(LabError):
        single.servers[0].ctl("NONSENSE")
