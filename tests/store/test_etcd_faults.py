"""What etcd does to its clients in production, done to real servers."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from dragonflow.lab.etcd import PREFIX, USER, EtcdCluster
from dragonflow.store import _etcdwatch, open_store
from dragonflow.store.conformance import A, B, C, put
from dragonflow.store.etcd import EtcdStore
from dragonflow.store.feed import Feed, ScopeReset
from dragonflow.store.protocol import (
    ABSENT,
    Changes,
    Check,
    Compacted,
    Conflict,
    Delete,
    Key,
    LeaseExpired,
    Put,
    Record,
    Txn,
    Unavailable,
    Watch,
)

PATIENCE = 30.0
TIMES = {"heartbeat-interval": "50", "election-timeout": "500"}

Open = Callable[..., EtcdStore]
_numbers = itertools.count(1)


def running(directory: Path, size: int, **options: object) -> Iterator[EtcdCluster]:
    more = options.pop("options", {})
    cluster = EtcdCluster(directory, directory / "etcd", size, options=TIMES | more, **options)  # type: ignore[dict-item,arg-type]
    cluster.make()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One server with TLS and users, whose tokens live for a second."""
    yield from running(tmp_path_factory.mktemp("one"), 1, tls=True, auth=True, options={"auth-token-ttl": "1"})


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    yield from running(tmp_path_factory.mktemp("three"), 3)


@pytest.fixture
async def connect() -> AsyncIterator[Open]:
    """Opens stores, and closes them after the test. Each test has a prefix of its own."""
    made: list[EtcdStore] = []
    prefix = f"{PREFIX}-f{os.getpid()}-{next(_numbers)}"

    def open_(cluster: EtcdCluster, user: str = USER, patience: float = 7.0, **change: str) -> EtcdStore:
        url = cluster.url_of(user, prefix)
        for old, new in change.items():
            url = url.replace(old, new)
        made.append(EtcdStore.of(url, patience=patience))
        return made[-1]

    yield open_
    for store in made:
        await store.close()


async def ctl(cluster: EtcdCluster, *command: str, stdin: str | None = None) -> None:
    await asyncio.to_thread(cluster.ctl, *command, stdin=stdin)


async def told(watch: Watch, key: Key, revision: int) -> list[Changes]:
    """All that a watch tells up to this; what it says of outages is heard and forgotten."""
    found = []
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                found.append(await anext(watch))
            except Unavailable:
                continue
            if any(record.key == key and record.revision >= revision for record in found[-1].records):
                return found


def endpoint_of(store: EtcdStore) -> str:
    """The server that a store is connected to."""
    connection = store._client._connection
    assert connection is not None
    return connection.endpoint


# -- servers that go --------------------------------------------------------------------------------------------------


async def test_no_write_is_lost_or_doubled_when_leaders_are_killed(three: EtcdCluster, connect: Open) -> None:
    """Four clients count up one record by compare and swap, each leaving a mark in the same commit."""
    stop = asyncio.Event()
    acknowledged: list[Key] = []
    unknown: list[Key] = []

    async def count(client: int) -> None:
        store, marks = connect(three), itertools.count()
        while not stop.is_set():
            mark = Key("net:a", "Mark", f"{client}.{next(marks)}")
            try:
                record = await store.get(A)
                value = int(record.data or b"0") if record else 0
                check = Check(A, record.revision if record else ABSENT)
            except Unavailable:
                continue
            try:
                await store.commit(Txn((Put(A, str(value + 1).encode()), Put(mark, b"x")), (check,)))
            except Conflict:
                pass
            except Unavailable:
                unknown.append(mark)
            else:
                acknowledged.append(mark)

    counting = [asyncio.create_task(count(client)) for client in range(4)]
    for _ in range(2):
        seen = len(acknowledged)
        await until(lambda seen=seen: len(acknowledged) > seen + 50)  # type: ignore[misc]
        leader = await asyncio.to_thread(three.leader)
        await asyncio.to_thread(leader.kill)
        seen = len(acknowledged)
        await until(lambda seen=seen: len(acknowledged) > seen + 20)  # type: ignore[misc]
        await asyncio.to_thread(leader.start)
    stop.set()
    await asyncio.gather(*counting)
    reader = connect(three)
    rows = {record.key: record for record in (await reader.snapshot(["*"])).records}
    marks = {key for key in rows if key.kind == "Mark"}
    assert set(acknowledged) <= marks <= {*acknowledged, *unknown}
    assert int(rows[A].data or b"") == len(marks)
    assert len(unknown) <= 8  # each kill may catch one commit of each client on its way


async def test_all_servers_are_killed_and_come_back(three: EtcdCluster, connect: Open) -> None:
    reader, writer = connect(three, patience=2.0), connect(three, patience=2.0)
    await write_until_done(writer, A)
    revision = await write_until_done(writer, B)
    async with aclosing(reader.watch({"net:*": revision})) as watch:
        await told(watch, C, await write_until_done(writer, C))
        await asyncio.to_thread(three.kill)
        with pytest.raises(Unavailable, match="nobody listens there"):
            await asyncio.wait_for(next_of(watch), PATIENCE)
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(Unavailable):
                await writer.commit(put(A))
        assert time.monotonic() - began < 5, "each request waited for its own patience"
        await asyncio.to_thread(three.start)
        again = await write_until_done(writer, A)
        assert {record.key for each in await told(watch, A, again) for record in each.records} == {A}
    assert {record.key for record in (await reader.snapshot(["*"])).records} == {A, B, C}


async def test_a_server_that_falls_silent_is_left(three: EtcdCluster, connect: Open) -> None:
    """Stopped by SIGSTOP its sockets stay open, as those of a machine that was cut off do."""
    reader, writer = connect(three), connect(three)
    revision = await write_until_done(writer, A)
    async with aclosing(reader.watch({"net:a": revision})) as watch:
        await told(watch, B, await write_until_done(writer, B))
        silent = next(member for member in three.members.values() if member.endpoint == endpoint_of(reader))
        assert silent.pid is not None
        waiting = asyncio.create_task(told(watch, A, revision + 1))
        os.kill(silent.pid, signal.SIGSTOP)
        try:
            written = await write_until_done(writer, A)
            async with asyncio.timeout(10):
                changes = await waiting
            assert changes[-1].records[-1].revision >= written or await told(watch, A, written)
            assert endpoint_of(reader) != silent.endpoint
            async with asyncio.timeout(10):
                assert await reader.get(A) is not None
        finally:
            os.kill(silent.pid, signal.SIGCONT)


async def test_servers_that_are_down_from_the_start_cost_nothing(three: EtcdCluster, connect: Open) -> None:
    endpoints = [member.endpoint for member in three.members.values()]
    store = connect(three, **{",".join(endpoints): f"127.0.0.1:1,{endpoints[0]},127.0.0.1:2,127.0.0.1:3"})
    await write_until_done(connect(three), A)
    async with asyncio.timeout(2):
        await store.snapshot(["net:a"])
        await store.commit(put(B))


async def test_a_slow_server_is_waited_for(one: EtcdCluster, connect: Open) -> None:
    store = connect(one)
    first = await store.commit(put(A))
    pid = one.members["etcd1"].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    committing = asyncio.create_task(store.commit(put(A, data=b"slow", checks=(Check(A, first),))))
    await asyncio.sleep(1)
    os.kill(pid, signal.SIGCONT)
    assert await committing == first + 1


async def test_a_server_without_a_quorum_serves_nothing(three: EtcdCluster, connect: Open) -> None:
    store = connect(three, patience=2.0)
    revision = await write_until_done(store, A)
    others = [member for member in three.members.values() if member.endpoint != endpoint_of(store)]
    async with aclosing(store.watch({"net:a": revision})) as watch:
        await told(watch, B, await write_until_done(store, B))
        for member in others:
            await asyncio.to_thread(member.kill)
        try:
            with pytest.raises(Unavailable, match=r"no leader|did not agree|no answer"):
                await asyncio.wait_for(next_of(watch), PATIENCE)
            for request in (store.get(A), store.snapshot(["net:a"]), store.commit(put(C))):
                with pytest.raises(Unavailable):
                    await request
        finally:
            await asyncio.to_thread(three.start)
        await told(watch, A, await write_until_done(store, A))


# -- history ----------------------------------------------------------------------------------------------------------


async def test_a_deletion_compacted_at_once_is_not_missed(one: EtcdCluster, connect: Open) -> None:
    """etcd issue 18089: a watcher from the compacted revision on is not told of a deletion in it."""
    store = connect(one)
    revision = await store.commit(put(A, B))
    async with aclosing(store.watch({"net:a": revision})) as watch:
        await told(watch, B, await store.commit(put(B)))
        await watch._part()  # as if the stream had broken off
        gone = await store.commit(Txn((Delete(A),)))
        await ctl(one, "compaction", str(gone))
        with pytest.raises(Compacted) as compacted:
            await asyncio.wait_for(next_of(watch), PATIENCE)
        assert compacted.value.scopes == {"net:a"}
        snapshot = await store.snapshot(["net:a"])
        assert [record.key for record in snapshot.records] == [B]
        watch.add({"net:a": snapshot.revision})
        await told(watch, B, await store.commit(put(B)))


async def test_what_was_on_its_way_of_a_dropped_scope_is_not_told(one: EtcdCluster, connect: Open) -> None:
    store = connect(one)
    revision = await store.commit(put(A, C))
    async with aclosing(store.watch({"net:a": revision, "net:b": revision})) as watch:
        await told(watch, A, await store.commit(put(A)))
        await store.commit(put(B))
        await until(lambda: bool(watch._ready))
        watch.drop(["net:a"])
        assert {record.key for each in await told(watch, C, await store.commit(put(C))) for record in each.records} == {
            C
        }
        await store.commit(put(B))
        again = await store.commit(put(C))
        await until(lambda: bool(watch._ready))
        watch.add({"net:b": again})
        last = await store.commit(put(C))
        assert {record.revision for each in await told(watch, C, last) for record in each.records} == {last}


async def test_what_is_far_behind_is_read_anew_and_not_replayed(
    one: EtcdCluster, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_etcdwatch, "REPLAY", 10)
    store = connect(one)
    start = await store.commit(put(A))
    async with aclosing(store.watch({"net:a": start, "net:b": start})) as watch:
        for _ in range(15):
            await told(watch, C, await store.commit(put(C)))
        await watch._part()
        again = await store.commit(put(C))
        with pytest.raises(Compacted, match="too far behind") as compacted:
            await asyncio.wait_for(next_of(watch), PATIENCE)
        assert compacted.value.scopes == {"net:a"}
        assert {record.key for each in await told(watch, C, again) for record in each.records} == {C}


async def test_a_cluster_that_lost_its_data_is_read_anew(
    tmp_path: Path, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_etcdwatch, "REPLAY", 3)  # what was known of the old revisions must not make the new look old
    for cluster in running(tmp_path, 1):
        feed = Feed(connect(cluster, patience=1.0))
        writer = connect(cluster)
        for _ in range(8):
            await writer.commit(put(A, B))
        await feed.add(["net:a"])
        async with aclosing(feed):
            assert len(await reset(feed)) == 2
            waiting = asyncio.create_task(reset(feed))
            await asyncio.to_thread(cluster.wipe)
            await asyncio.to_thread(cluster.start)
            assert await asyncio.wait_for(waiting, PATIENCE) == ()
            revision = await write_until_done(writer, A)
            async with asyncio.timeout(PATIENCE):
                async for item in feed:
                    assert isinstance(item, Changes), "it was read again and again"
                    if [record.revision for record in item.records] == [revision]:
                        break


async def test_a_snapshot_comes_in_pages_of_one_revision(one: EtcdCluster, connect: Open) -> None:
    store, writer = connect(one), connect(one)
    store._page = 20
    keys = [Key(f"net:{number % 3}", "Thing", f"{number:04d}") for number in range(300)]
    for start in range(0, len(keys), 100):
        await writer.commit(put(*keys[start : start + 100], data=b"0"))
    done = False

    async def write() -> None:
        number = 0
        while not done:
            number += 1
            await writer.commit(put(*keys[:50], *keys[-50:], data=str(number).encode()))

    writing = asyncio.create_task(write())
    for _ in range(5):
        records = (await store.snapshot(["net:0", "net:1*", "net:2"])).records
        assert len(records) == 300
        assert len({record.data for record in records if record.key in (*keys[:50], *keys[-50:])}) == 1
    done = True
    await writing


async def test_a_snapshot_whose_revision_is_compacted_begins_anew(one: EtcdCluster, connect: Open) -> None:
    store, writer = connect(one), connect(one)
    store._page = 20
    keys = [Key("net:a", "Thing", f"{number:04d}") for number in range(200)]
    for start in range(0, len(keys), 100):
        await writer.commit(put(*keys[start : start + 100], data=b"old"))
    add, compacted = store._add, 0

    async def compact_then_add(records: list[Record], found: object) -> None:
        nonlocal compacted
        if not compacted:
            compacted = await writer.commit(put(keys[0], keys[-1], data=b"new"))
            await ctl(one, "compaction", str(compacted))
        await add(records, found)

    store._add = compact_then_add  # type: ignore[method-assign]
    snapshot = await store.snapshot(["net:a"])
    assert snapshot.revision == compacted
    assert [record.key for record in snapshot.records] == keys
    assert snapshot.records[0].data == snapshot.records[-1].data == b"new"


async def test_many_scopes_are_read_in_several_requests(one: EtcdCluster, connect: Open) -> None:
    store = connect(one)
    keys = [Key(f"net:{number}", "Thing", "1") for number in range(250)]
    for start in range(0, len(keys), 100):
        revision = await store.commit(put(*keys[start : start + 100]))
    snapshot = await store.snapshot([key.scope for key in keys])
    assert {record.key for record in snapshot.records} == set(keys)
    async with aclosing(store.watch({key.scope: revision for key in keys})) as watch:
        last = await store.commit(put(*keys[200:]))
        heard: set[Key] = set()
        async with asyncio.timeout(PATIENCE):
            while heard != set(keys[200:]):
                changes = await anext(watch)
                assert changes.revision == last
                heard |= {record.key for record in changes.records}


# -- limits and foes --------------------------------------------------------------------------------------------------


async def test_what_is_too_large_is_said_with_the_limit(one: EtcdCluster, connect: Open) -> None:
    store = connect(one)
    keys = [Key("net:a", "Thing", str(number)) for number in range(129)]
    with pytest.raises(ValueError, match="--max-txn-ops"):
        await store.commit(put(*keys))
    with pytest.raises(ValueError, match="--max-txn-ops"):
        await store.commit(Txn((Put(A, b"x"),), tuple(Check(key, ABSENT) for key in keys)))
    for size in (1_600_000, 4_000_000):
        with pytest.raises(ValueError, match="--max-request-bytes"):
            await store.commit(put(A, data=b"x" * size))
    assert (await store.snapshot(["*"])).records == ()
    await store.commit(Txn(put(*keys[:128]).writes, tuple(Check(key, ABSENT) for key in keys[:128])))


async def test_a_full_database_is_said_and_can_be_mended(tmp_path: Path, connect: Open) -> None:
    for cluster in running(tmp_path, 1, options={"quota-backend-bytes": "4000000"}):
        store = connect(cluster)
        with pytest.raises(Unavailable, match=r"NOSPACE.*etcdctl alarm disarm"):
            await asyncio.wait_for(write_for_ever(store, A, b"x" * 300_000), PATIENCE)
        with pytest.raises(Unavailable, match="NOSPACE"):
            await store.grant_lease(10)
        record = await store.get(A)
        assert record is not None, "reading goes on"
        await store.commit(Txn((Delete(A),)))
        await ctl(cluster, "compaction", str(record.revision))
        await ctl(cluster, "defrag")
        await ctl(cluster, "alarm", "disarm")
        await store.commit(put(A))


async def test_what_others_wrote_below_the_prefix_is_ignored(
    one: EtcdCluster, connect: Open, caplog: pytest.LogCaptureFixture
) -> None:
    store = connect(one)
    revision = await store.commit(put(A))
    root = store._keys.root.decode()
    async with aclosing(store.watch({"*": revision})) as watch:
        for odd in ("nothing", "net:a/Thing", "net:a/Thing/", "a%zz/k/i", "a*/k/i", "//"):
            await ctl(one, "put", root + odd, "?")
        changes = await told(watch, B, await store.commit(put(B)))
    assert [record.key for each in changes for record in each.records] == [B]
    for _ in range(2):
        assert {record.key for record in (await store.snapshot(["*"])).records} == {A, B}
    assert len([each for each in caplog.records if "which Dragonflow did not write" in each.message]) == 6


async def test_a_lease_that_is_none_is_gone(one: EtcdCluster, connect: Open) -> None:
    store = connect(one)
    for lease in ("12ab", "no lease"):
        with pytest.raises(LeaseExpired):
            await store.keep_alive(lease)
        with pytest.raises(LeaseExpired, match=lease):
            await store.commit(put(A, lease=lease))


# -- who may -----------------------------------------------------------------------------------------------------------


async def test_a_token_that_expired_is_renewed(one: EtcdCluster, connect: Open) -> None:
    store, writer = connect(one), connect(one)
    revision = await writer.commit(put(A))
    async with aclosing(store.watch({"net:a": revision})) as watch:
        await told(watch, B, await writer.commit(put(B)))
        token = store._client._token
        await asyncio.sleep(3)  # etcd looks for expired tokens once a second
        watch.add({"net:b": revision})
        await told(watch, C, await connect(one).commit(put(C)))
        assert store._client._token != token
        await writer.commit(put(A, checks=(Check(A, revision),)))


async def test_a_server_that_restarts_forgets_its_tokens(one: EtcdCluster, connect: Open) -> None:
    store = connect(one)
    revision = await store.commit(put(A))
    await asyncio.to_thread(one.stop)
    await asyncio.to_thread(one.start)
    await store.commit(put(A, checks=(Check(A, revision),)))


async def test_a_password_is_read_again_when_it_changed(one: EtcdCluster, connect: Open) -> None:
    await asyncio.to_thread(lambda: one.add_user("changer", ("readwrite", f"/{PREFIX}", f"/{PREFIX}0")))
    store = connect(one, "changer", patience=1.0)
    await store.commit(put(A))
    await ctl(one, "user", "passwd", "changer", "--interactive=false", stdin="new\n")
    with pytest.raises(Unavailable, match=r"doesn't know user 'changer'"):
        await connect(one, "changer").get(A)
    one.password_file("changer").write_text("new\n")
    await connect(one, "changer").get(A)
    await store.get(A)


async def test_a_right_that_is_missing_is_named(one: EtcdCluster, connect: Open) -> None:
    admin = connect(one)
    root = admin._keys.root.decode()
    await asyncio.to_thread(
        lambda: one.add_user("reader", ("read", root, root[:-1] + "0"), ("readwrite", f"{root}net:a/", f"{root}net:a0"))
    )
    store = connect(one, "reader")
    revision = await store.commit(put(A))
    assert await store.get(A) is not None
    with pytest.raises(Unavailable, match=r"writing net:b/Thing/1.*user 'reader' has no right to it"):
        await store.commit(put(C))
    async with aclosing(store.watch({"*": revision})) as watch:
        await told(watch, C, await admin.commit(put(C)))
        await ctl(one, "role", "revoke-permission", "reader", root, root[:-1] + "0")
        with pytest.raises(Unavailable, match="user 'reader' has no right"):
            await store.get(C)
        watch.add({"net:b": revision})
        with pytest.raises(Unavailable, match=r"watching .*user 'reader' has no right|asking for the revision"):
            await asyncio.wait_for(next_of(watch), PATIENCE)
        await ctl(one, "role", "grant-permission", "reader", "read", root, root[:-1] + "0")
        await told(watch, C, await admin.commit(put(C)))


async def test_files_that_prove_nothing_are_named(one: EtcdCluster, connect: Open, tmp_path: Path) -> None:
    other = EtcdCluster(tmp_path, tmp_path / "other", 1, tls=True)
    other.make()
    ca = str(one.certificates.ca)
    with pytest.raises(Unavailable, match="not signed by the ca of the URL"):
        await connect(one, patience=0.3, **{ca: str(other.certificates.ca)}).get(A)
    with pytest.raises(Unavailable, match=rf"ca={tmp_path}/none"):
        await connect(one, patience=0.3, **{ca: f"{tmp_path}/none"}).get(A)
    with pytest.raises(Unavailable, match="a server with TLS does that"):
        await connect(one, patience=0.3, **{"etcd+tls": "etcd", f"&ca={ca}": ""}).get(A)
    tls = other.certificates
    tls.key.chmod(0o644)
    with pytest.raises(Unavailable, match=rf"key={tls.key} is open to every user"):
        await connect(one, **{ca: f"{ca}&cert={tls.cert}&key={tls.key}"}).get(A)
    password = one.password_file(USER)
    for name, mode, said in (
        ("open", 0o644, "open to every user"),
        ("none", None, "none.password"),
        ("empty", 0o600, "is empty"),
    ):
        if mode is not None:
            one.password_file(name).write_text("" if name == "empty" else "x")
            one.password_file(name).chmod(mode)
        with pytest.raises(Unavailable, match=said):
            await connect(one, **{str(password): str(one.password_file(name))}).get(A)


async def test_a_server_that_wants_certificates_gets_one(tmp_path: Path, connect: Open) -> None:
    ca = tmp_path / "etcd/tls/ca.pem"
    for cluster in running(tmp_path, 1, tls=True, options={"client-cert-auth": "true", "trusted-ca-file": str(ca)}):
        with pytest.raises(Unavailable, match=r"wants a client's certificate|wants another certificate"):
            await connect(cluster, patience=0.3).get(A)
        tls = cluster.certificates
        proven = connect(cluster, **{str(ca): f"{ca}&cert={tls.cert}&key={tls.key}"})
        await proven.commit(put(A))
        tls.cert.chmod(0o600)
        swapped = connect(cluster, patience=0.3, **{str(ca): f"{ca}&cert={tls.key}&key={tls.cert}"})
        with pytest.raises(Unavailable, match="no certificate and its key in PEM"):
            await swapped.get(A)


async def test_a_server_that_wants_no_password_gets_none(
    three: EtcdCluster, connect: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text("x")
    (tmp_path / "password").chmod(0o600)
    url = f"{three.url.replace('//', '//somebody@')}?password_file={tmp_path}/password"
    store = open_store(url)
    await store.snapshot(())
    await store.close()
    assert "asks nobody for a password" in caplog.text


# -- helpers ----------------------------------------------------------------------------------------------------------


async def next_of(watch: Watch) -> Changes:
    return await anext(watch)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():
            await asyncio.sleep(0.01)


async def write_until_done(store: EtcdStore, key: Key) -> int:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.commit(put(key))
            except Unavailable:
                continue


async def write_for_ever(store: EtcdStore, key: Key, data: bytes) -> None:
    while True:
        await store.commit(put(key, data=data))


async def reset(feed: Feed) -> tuple[object, ...]:
    async for item in feed:
        if isinstance(item, ScopeReset):
            return item.records
    raise AssertionError("the feed ended")
