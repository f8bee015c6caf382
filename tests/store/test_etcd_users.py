"""What is built on a store, once on real etcd: key pools, feeds, threads and forks, the bus; and a chassis's narrow rights."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from dragonflow.lab.etcd import PREFIX, USER, EtcdCluster
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import CHANGES, Message
from dragonflow.store import UnknownStore, keys, open_store
from dragonflow.store.conformance import A, put, state
from dragonflow.store.draft import transact
from dragonflow.store.etcd import EtcdStore
from dragonflow.store.feed import Feed, ScopeReset
from dragonflow.store.protocol import Delete, Key, Record, Store, Txn

PATIENCE = 20.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    home = tmp_path_factory.mktemp("etcd")
    cluster = EtcdCluster(home, home / "etcd", 1, auth=True)
    cluster.make()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def url(cluster: EtcdCluster) -> str:
    return cluster.url_of(USER, f"{PREFIX}-u{os.getpid()}-{next(_numbers)}")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    yield store
    await store.close()


async def test_keys_are_given_out_once(store: Store, url: str) -> None:
    async def take(client: int) -> list[int]:
        mine = open_store(url)
        taken = []
        for number in range(10):
            owner = f"{client}.{number}"
            key, _, _ = await transact(mine, lambda draft, owner=owner: keys.allocate(draft, keys.PORT, owner))  # type: ignore[misc]
            taken.append(key)
        await mine.close()
        return taken

    taken = [key for each in await asyncio.gather(*map(take, range(4))) for key in each]
    assert sorted(taken) == list(range(1, 41))


async def test_a_feed_ends_with_the_rows_of_its_scopes(store: Store, url: str) -> None:
    """Scopes come and go while two clients write; in the end the reader has exactly what there is."""
    scopes = [f"net:{number}" for number in range(6)]
    rows: dict[str, dict[Key, Record]] = {}
    feed = Feed(store)
    finished = asyncio.Event()

    async def write(client: int) -> None:
        mine = open_store(url)
        for number in range(150):
            key = Key(scopes[(number * 5 + client) % 6], "Thing", str(number % 7))
            await mine.commit(
                Txn((Delete(key),)) if number % 3 == client else put(key, data=f"{client}.{number}".encode())
            )
        await mine.close()

    async def read() -> None:
        async with aclosing(feed):
            async for item in feed:
                if isinstance(item, ScopeReset):
                    rows[item.scope] = {record.key: record for record in item.records}
                    continue
                for record in item.records:
                    mine = rows[record.key.scope]
                    if record.data is None:
                        mine.pop(record.key, None)
                    else:
                        mine[record.key] = record
                if any(record.key.kind == "End" for record in item.records):
                    finished.set()
                    return

    async def choose() -> None:
        for turn in range(40):
            scope = scopes[turn % 6]
            if scope in feed.scopes and turn % 4 == 0:
                feed.drop([scope])
                rows.pop(scope, None)
            else:
                await feed.add([scope])
            await asyncio.sleep(0.01)
        await feed.add(["net:0", "net:1", "net:2"])

    reading = asyncio.create_task(read())
    await asyncio.gather(write(0), write(1), choose())
    async with asyncio.timeout(PATIENCE):
        while not feed.in_sync:
            await asyncio.sleep(0.01)
        for scope in sorted(feed.scopes):  # each scope is told in order by itself
            await store.commit(put(Key(scope, "Last", "1")))
        while not all(Key(scope, "Last", "1") in rows.get(scope, {}) for scope in feed.scopes):
            await asyncio.sleep(0.01)
        wanted = feed.scopes
        await store.commit(put(Key(min(wanted), "End", "1")))
        await finished.wait()
    await reading
    truth = state((await store.snapshot(wanted)).records)
    assert {key: (record.data, record.revision) for mine in rows.values() for key, record in mine.items()} == truth


FORKS = """
import os, sys, threading
from dragonflow.store.blocking import BlockingStore, Portal
from dragonflow.store.conformance import put
from dragonflow.store.protocol import Key

store = BlockingStore(Portal(), sys.argv[1])  # checks the URL, which imports gRPC
children = []
for child in range(2):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number in range(20):
                store.commit(put(Key("net:a", "Child", f"{child}.{number}")))
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
feed = store.feed(["net:a"])
writing = [threading.Thread(target=store.commit, args=(put(Key("net:a", "Thread", str(n))),)) for n in range(4)]
for thread in writing:
    thread.start()
for thread in writing:
    thread.join()
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
seen = set()
while len(seen) < 44:
    item = feed.next(20)
    assert item is not None
    seen |= {record.key for record in item.records}
assert {record.key for record in store.snapshot(["net:a"]).records} == seen
late = os.fork()
if late == 0:
    os._exit(0)
os.waitpid(late, 0)
store.commit(put(Key("net:a", "Late", "1")))  # a fork of a process that has used it disturbs that process in nothing
feed.close()
store.close()
"""


def test_threads_use_it_and_so_do_processes_that_fork_before(url: str) -> None:
    """Each process connects by itself."""
    done = subprocess.run([sys.executable, "-c", FORKS, url], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


async def test_the_bus_without_a_broker_meets_in_it(store: Store, url: str) -> None:
    other = open_store(url)
    speaker, hearer = open_pubsub("zmq+tcp://127.0.0.1", other), open_pubsub("zmq+tcp://127.0.0.1", store)
    message = Message(CHANGES, (Record(A, b"x", 1),))
    async with asyncio.timeout(PATIENCE), aclosing(hearer.subscribe([CHANGES])) as heard:
        hearing = asyncio.ensure_future(anext(aiter(heard)))
        while not hearing.done():
            await speaker.publish(message)
            await asyncio.sleep(0.02)
        assert (await hearing).records == message.records
    await speaker.close()
    await hearer.close()
    await other.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("etcd://", "'' is no HOST:PORT"),
        ("etcd://h/x", "'h' is no HOST:PORT"),
        ("etcd://::1:2379/x", "an IPv6 address stands in brackets"),
        ("etcd://h:1,h:99999/x", "'99999' in 'h:99999' is no port"),
        ("etcd://h:1", "is no prefix"),
        ("etcd://h:1/a/b", "'a/b' after the servers is no prefix"),
        ("etcd://u@h:1/a", "user 'u' but no password_file"),
        ("etcd://h:1/a?password_file=/x", "password_file but no USER@"),
        ("etcd://u@h:1/a?password_file=x", "password_file is no absolute path"),
        ("etcd://h:1/a?ca=/x", "ca is for TLS"),
        ("etcd+tls://h:1/a?cert=/x", "only of use together"),
        ("etcd://h:1/a?patience=3", "there is no option 'patience'"),
        ("etcd+x://h:1/a", "there is no scheme 'etcd.x'"),
    ],
)
def test_a_url_that_is_wrong_is_refused_with_the_part_and_the_fix(url: str, why: str) -> None:
    with pytest.raises(UnknownStore, match=rf"\[df\] store_url: .*{why}.*write etcd://"):
        open_store(url)


def test_a_url_s_password_is_never_repeated() -> None:
    with pytest.raises(UnknownStore) as refused:
        open_store("etcd://user:sesame@h:1/a")
    assert "sesame" not in str(refused.value)


def test_urls_that_are_right_connect_to_nothing_yet() -> None:
    for url in ("etcd://h:1/a", "etcd+tls://[::1]:1,h:2/a?ca=/x&cert=/y&key=/z", "etcd://u%40x@h:1/a?password_file=/x"):
        assert isinstance(open_store(url), EtcdStore)
