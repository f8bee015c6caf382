from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonflow.store import UnknownStore, keys
from dragonflow.store.blocking import BlockingStore, Portal
from dragonflow.store.draft import transact
from dragonflow.store.feed import Changes, ScopeReset
from dragonflow.store.protocol import ABSENT, Check, Conflict, Delete, Key, LeaseExpired, Put, Record, Txn, Unavailable

A, B = Key("net:a", "Thing", "1"), Key("net:b", "Thing", "1")


def put(key: Key, data: bytes = b"x") -> Txn:
    return Txn((Put(key, data),))


@pytest.fixture
def portal() -> Iterator[Portal]:
    portal = Portal()
    yield portal
    portal.close()


@pytest.fixture
def store(portal: Portal, tmp_path: Path) -> Iterator[BlockingStore]:
    store = BlockingStore(portal, f"sqlite://{tmp_path}/db")
    yield store
    store.close()


def test_the_protocol_blocks(store: BlockingStore) -> None:
    revision = store.commit(put(A))
    assert store.get(A) == Record(A, b"x", revision)
    assert store.snapshot(["*"]).records == (Record(A, b"x", revision),)
    with pytest.raises(Conflict):
        store.commit(Txn((), (Check(A, ABSENT),)))
    lease = store.grant_lease(60)
    store.commit(Txn((Put(B, b"x", lease),)))
    store.keep_alive(lease)
    store.revoke(lease)
    with pytest.raises(LeaseExpired):
        store.keep_alive(lease)
    assert store.get(B) is None
    store.hint()


def test_keys_from_threads(store: BlockingStore) -> None:
    taken: list[int] = []

    def take(owner: str) -> None:
        for i in range(10):
            name = f"{owner}.{i}"
            number, _, _ = store.call(
                lambda under, name=name: transact(under, lambda draft: keys.allocate(draft, keys.PORT, name))  # type: ignore[misc]
            )
            taken.append(number)

    threads = [threading.Thread(target=take, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))


def test_a_feed_is_read_by_a_thread_and_changed_by_others(store: BlockingStore) -> None:
    feed = store.feed(["net:a"])
    assert feed.next(10) == ScopeReset("net:a", 1, ())
    assert feed.in_sync
    assert feed.next(0.01) is None
    revision = store.commit(put(A))
    assert next(feed) == Changes(revision, (Record(A, b"x", revision),))
    assert feed.revision == revision
    assert feed.last_error is None
    feed.add(["net:b"])
    assert next(feed) == ScopeReset("net:b", revision, ())
    feed.drop(["net:a"])
    store.commit(Txn((Delete(A),)))
    revision = store.commit(put(B))
    assert next(feed) == Changes(revision, (Record(B, b"x", revision),))
    read: list[object] = []
    reader = threading.Thread(target=lambda: read.extend(feed))
    reader.start()
    feed.close()
    reader.join(10)
    assert not reader.is_alive()
    assert feed.next(1) is None


def test_a_reader_without_time_gets_what_has_come(store: BlockingStore) -> None:
    feed = store.feed(["net:a"])
    until = time.monotonic() + 10
    item = None
    while item is None and time.monotonic() < until:
        item = feed.next(0.0)
    assert isinstance(item, ScopeReset)
    revision, item = store.commit(put(A)), None
    while item is None and time.monotonic() < until:
        item = feed.next(0.0)
    assert item == Changes(revision, (Record(A, b"x", revision),))
    feed.close()


def test_a_call_that_takes_too_long_is_unavailable_and_cancelled(portal: Portal, tmp_path: Path) -> None:
    store = BlockingStore(portal, f"sqlite://{tmp_path}/db", timeout=0.1)
    revision = store.commit(put(A))
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer within 0\.1 s"):
        store.call(lambda under: anext(under.watch({"*": revision})))
    assert time.monotonic() - began < 5
    store.close()


def test_a_call_that_waits_when_the_portal_is_closed_is_unavailable(store: BlockingStore, portal: Portal) -> None:
    feed = store.feed(["net:a"])
    assert next(feed)
    outcome: list[BaseException] = []

    def read() -> None:
        try:
            next(feed)
        except Unavailable as error:
            outcome.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    until = time.monotonic() + 10
    while feed._feed._step is None and time.monotonic() < until:  # until it waits
        time.sleep(0.001)
    portal.close()
    reader.join(10)
    assert len(outcome) == 1


def test_a_call_on_the_loop_s_own_thread_is_refused(portal: Portal) -> None:
    async def wrong() -> None:
        portal.run(wrong)

    with pytest.raises(RuntimeError, match="own thread"):
        portal.run(wrong)


def test_urls_are_refused_at_once(portal: Portal) -> None:
    with pytest.raises(UnknownStore):
        BlockingStore(portal, "nonsense://")


def test_closing_and_using_again(store: BlockingStore, portal: Portal) -> None:
    store.commit(put(A))
    store.close()
    assert store.get(A) is not None
    store.close()
    portal.close()
    assert store.get(A) is not None


@pytest.mark.parametrize("used_before", [False, True])
def test_a_fork_gives_the_child_a_loop_and_a_store_of_its_own(store: BlockingStore, used_before: bool) -> None:
    if used_before:
        store.commit(put(A))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.commit(put(B, b"child"))
            store.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    record = store.get(B)
    assert record is not None
    assert record.data == b"child"
    store.commit(put(A, b"parent"))
