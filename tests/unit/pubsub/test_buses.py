"""What every bus does, and what only ZeroMQ can suffer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zmq

from dragonflow.lab.redis import RedisServers
from dragonflow.pubsub import UnknownPubSub, curve, open_pubsub, wire
from dragonflow.pubsub.memory import Hub, MemoryPubSub
from dragonflow.pubsub.news import commit, committed, pass_hints
from dragonflow.pubsub.protocol import CHANGES, PORT_STATUS, Message, PubSub
from dragonflow.pubsub.zmq import SCOPE, ZmqPubSub
from dragonflow.store import open_store
from dragonflow.store.feed import Feed, ScopeReset
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Delete, Key, Put, Record, Store, Txn
from dragonflow.store.sqlite import SqliteStore

A, B = Key("net:a", "Thing", "1"), Key("net:b", "Thing", "żółć")


def news(revision: int, topic: str = CHANGES) -> Message:
    return Message(topic, (Record(A, b"x", revision), Record(B, None, revision)))


class Listener:
    """Reads a subscription in the background."""

    def __init__(self, bus: PubSub, *topics: str) -> None:
        self.heard: list[Message] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._listen(bus, topics))

    async def _listen(self, bus: PubSub, topics: tuple[str, ...]) -> None:
        async with contextlib.aclosing(bus.subscribe(topics)) as messages:
            async for message in messages:
                self.heard.append(message)
                self._news.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self._task

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def meet(bus: PubSub, *listeners: Listener) -> None:
    """Publish until everybody hears it: the first messages get lost while sockets find each other."""
    async with asyncio.timeout(10):
        while not all(listener.heard for listener in listeners):
            await bus.publish(Message(CHANGES, ()))
            await asyncio.sleep(0.005)
    await bus.publish(Message(CHANGES, (Record(A, b"met", 1),)))
    for listener in listeners:
        await listener.until(lambda listener=listener: bool(listener.heard[-1].records))  # type: ignore[misc]
        listener.heard.clear()


Buses = Callable[[], PubSub]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    home = tmp_path_factory.mktemp("redis")
    with RedisServers(home, home / "redis", size=1, sentinels=0) as servers:
        yield servers


def redis_url(servers: RedisServers, tmp_path: Path) -> str:
    return servers.url_of("dragonflow", prefix=f"{{dragonflow}}{tmp_path}")


def url_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match kind:
        case "memory":
            return f"memory://{tmp_path}"
        case "zmq+ipc":
            return f"zmq+ipc://{tmp_path}/bus"
        case "zmq+tcp":
            return "zmq+tcp://127.0.0.1"
        case "zmq+curve":
            if not (tmp_path / "h1.key").exists():
                curve.create(tmp_path, "h1")
            return f"zmq+tcp://127.0.0.1?key={tmp_path}/h1.key_secret&peers={tmp_path}"
        case "redis":
            return redis_url(request.getfixturevalue("redis"), tmp_path)
    return kind


@pytest.fixture(params=["memory", "zmq+ipc", "zmq+tcp", "zmq+curve", "redis"])
async def buses(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Buses]:
    """Makes buses that meet, each with a store client of its own, as in different processes."""
    memory, made = Memory(), []
    url = url_of(request.param, request, tmp_path)

    def make() -> PubSub:
        made.append(open_pubsub(url, MemoryStore(memory)))
        return made[-1]

    yield make
    for bus in made:
        await bus.close()


async def test_messages_reach_all_subscribers_of_their_topic_in_order(buses: Buses) -> None:
    sender, one, two = buses(), buses(), buses()
    listeners = Listener(one, CHANGES), Listener(two, CHANGES, PORT_STATUS), Listener(sender, CHANGES)
    other = Listener(one, PORT_STATUS)
    await meet(sender, *listeners)
    for revision in range(100):
        await sender.publish(news(revision + 1, PORT_STATUS if revision % 10 == 0 else CHANGES))
    last = news(1000)
    await sender.publish(last)
    for listener in listeners:
        await listener.until(lambda listener=listener: listener.heard[-1:] == [last])  # type: ignore[misc]
    expected = [news(revision + 1, PORT_STATUS if revision % 10 == 0 else CHANGES) for revision in range(100)]
    assert listeners[1].heard == [*expected, last]
    assert listeners[0].heard == listeners[2].heard == [*(m for m in expected if m.topic == CHANGES), last]
    await other.until(lambda: len(other.heard) == 10)
    assert {message.topic for message in other.heard} == {PORT_STATUS}
    for listener in (*listeners, other):
        await listener.end()


async def test_a_topic_is_no_prefix(buses: Buses) -> None:
    bus = buses()
    listener = Listener(bus, CHANGES)
    await meet(bus, listener)
    await bus.publish(Message(CHANGES + "2", ()))
    await bus.publish(news(7))
    await listener.until(lambda: bool(listener.heard))
    assert listener.heard == [news(7)]
    await listener.end()


async def test_publishing_waits_for_nobody(buses: Buses) -> None:
    bus = buses()
    for revision in range(100):
        await bus.publish(news(revision + 1))


async def test_ending_one_subscription_leaves_the_other(buses: Buses) -> None:
    bus = buses()
    one, two = Listener(bus, CHANGES), Listener(bus, CHANGES)
    await meet(bus, one, two)
    await one.end()
    await bus.publish(news(7))
    await two.until(lambda: two.heard == [news(7)])
    assert one.heard == []
    await two.end()


async def test_closing_ends_subscriptions_and_drops_the_rest(buses: Buses) -> None:
    bus, other = buses(), buses()
    listener = Listener(bus, CHANGES)
    await meet(other, listener)
    await bus.close()
    await listener.ended()
    await bus.publish(news(7))
    assert [message async for message in bus.subscribe([CHANGES])] == []
    await other.publish(news(8))


async def test_a_subscriber_that_sleeps_loses_the_oldest(buses: Buses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonflow.pubsub._subscription.BACKLOG", 10)
    bus = buses()
    messages = bus.subscribe([CHANGES])
    awake = Listener(bus, CHANGES)
    first = asyncio.create_task(anext(messages))
    await meet(bus, awake)
    await first
    for revision in range(50):
        await bus.publish(news(revision + 2))
    await awake.until(lambda: awake.heard[-1:] == [news(51)])
    assert [await anext(messages) for _ in range(10)] == [news(revision) for revision in range(42, 52)]
    await messages.aclose()
    await awake.end()


async def test_what_was_sent_and_received_is_counted(buses: Buses) -> None:
    sender, reader = buses(), buses()
    listener = Listener(reader, CHANGES)
    await meet(sender, listener)
    sent, received = sender.stats.sent, reader.stats.received
    for revision in range(50):
        await sender.publish(news(revision + 1))
    await listener.until(lambda: listener.heard[-1:] == [news(50)])
    async with asyncio.timeout(10):
        while sender.stats.sent < sent + 50:  # a bus may hear of its own success later than its readers
            await asyncio.sleep(0.005)
    assert reader.stats.received == received + 50
    assert (sender.stats.dropped, reader.stats.lost, reader.stats.unreadable) == (0, 0, 0)
    await listener.end()


@pytest.mark.parametrize("kind", ["store", "memory", "zmq+ipc", "zmq+tcp", "zmq+curve", "redis"])
async def test_a_commit_reaches_a_feed_over_any_bus_and_over_none(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whatever the bus does with a message, the store's own watch tells it; the store's poll alone takes 20 ms here."""
    url = url_of(kind, request, tmp_path)
    writer, reader = SqliteStore(tmp_path / "db"), SqliteStore(tmp_path / "db")
    sending, hearing = open_pubsub(url, writer), open_pubsub(url, reader)
    hints = asyncio.create_task(pass_hints(reader, hearing))
    feed = Feed(reader)
    await feed.add(["net:a"])
    assert isinstance(await anext(feed), ScopeReset)
    revision = await commit(writer, sending, Txn((Put(A, b"x"),)))
    async with asyncio.timeout(10):
        assert (await anext(feed)).records == (Record(A, b"x", revision),)
    hints.cancel()
    await asyncio.gather(hints, return_exceptions=True)
    await feed.aclose()
    for bus in (sending, hearing):
        await bus.close()
    for store in (writer, reader):
        await store.close()


async def test_without_a_bus_nothing_is_heard() -> None:
    bus = open_pubsub("store", MemoryStore())
    listener = Listener(bus, CHANGES)
    await bus.publish(news(1))
    await asyncio.sleep(0)
    await bus.close()
    await listener.ended()
    assert listener.heard == []


# -- lost, repeated, overtaken ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
async def test_a_reader_of_feed_and_bus_is_right_whatever_the_bus_does(seed: int) -> None:
    """The bus loses, repeats, delays and shuffles; a reader that compares revisions still ends with the store's rows."""
    rng, hub = random.Random(seed), Hub()
    delayed: list[Message] = []

    def relay(message: Message, deliver: Callable[[Message], None]) -> None:
        delayed.extend([message] * rng.choice([0, 1, 1, 2]))
        rng.shuffle(delayed)
        while delayed and rng.random() < 0.7:
            deliver(delayed.pop())

    hub.relay = relay
    memory = Memory(history=1000)
    store, bus, reader = MemoryStore(memory), MemoryPubSub(hub), MemoryPubSub(hub)
    feed = Feed(MemoryStore(memory))
    await feed.add(["net:a"])
    rows: dict[Key, tuple[bytes | None, int]] = {}  # deletions stay, so that late updates resurrect nothing

    def learn(records: tuple[Record, ...]) -> None:
        for record in records:
            if record.revision > rows.get(record.key, (None, 0))[1]:
                rows[record.key] = (record.data, record.revision)

    async def follow() -> None:
        async for item in feed:
            if isinstance(item, ScopeReset):
                rows.clear()
            learn(item.records)

    async def listen() -> None:
        async with contextlib.aclosing(reader.subscribe([CHANGES])) as messages:
            async for message in messages:
                learn(message.records)

    tasks = [asyncio.create_task(follow()), asyncio.create_task(listen())]
    keys = [Key("net:a", "Thing", str(i)) for i in range(5)]
    for i in range(100):
        key = rng.choice(keys)
        revision = await commit(store, bus, Txn((Delete(key) if rng.random() < 0.4 else Put(key, str(i).encode()),)))
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
    while delayed:
        hub.deliver(delayed.pop())
    async with asyncio.timeout(10):
        while feed.revision < revision:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
    truth = {record.key: record.data for record in (await store.snapshot(["net:a"])).records}
    assert {key: data for key, (data, _) in rows.items() if data is not None} == truth
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await feed.aclose()


def test_news_of_a_commit_carries_its_revision() -> None:
    assert committed(Txn((Put(A, b"x"), Delete(B))), 7) == news(7)


async def test_a_message_wakes_a_watch_long_before_its_poll(tmp_path: Path) -> None:
    writer, reader = SqliteStore(tmp_path / "db"), SqliteStore(tmp_path / "db", poll=3600)
    hub = Hub()
    start = (await reader.snapshot(())).revision
    waiting = asyncio.create_task(anext(reader.watch({"*": start})))
    hints = asyncio.create_task(pass_hints(reader, MemoryPubSub(hub)))
    await asyncio.sleep(0.1)
    await commit(writer, MemoryPubSub(hub), Txn((Put(A, b"x"),)))
    async with asyncio.timeout(10):
        assert [record.key for record in (await waiting).records] == [A]
    hints.cancel()
    await asyncio.gather(hints, return_exceptions=True)
    await writer.close()
    await reader.close()


# -- Redis ------------------------------------------------------------------------------------------------------------


class Hinted(MemoryStore):
    """A store that counts how often it was told to look."""

    hints = 0

    def hint(self) -> None:
        self.hints += 1
        super().hint()


async def test_a_redis_that_is_away_drops_and_counts_and_is_found_again(
    redis: RedisServers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = Hinted()
    sender, reader = (open_pubsub(redis_url(redis, tmp_path), store) for _ in range(2))
    listener = Listener(reader, CHANGES)
    await meet(sender, listener)
    hints = store.hints
    assert hints
    await asyncio.to_thread(redis.kill)
    async with asyncio.timeout(10):
        while not sender.stats.dropped:
            await sender.publish(news(7))  # never raises, never waits
            await asyncio.sleep(0.01)
    await asyncio.to_thread(redis.start)
    listener.heard.clear()
    await meet(sender, listener)
    assert store.hints > hints, "what was missed meanwhile is to be looked for"
    said = [record.message for record in caplog.records if "Redis" in record.message]
    assert len([text for text in said if "can't publish" in text]) == 1
    assert len([text for text in said if "again" in text]) == 1
    await listener.end()
    await sender.close()
    await reader.close()


async def test_a_redis_that_hangs_holds_up_no_publisher(redis: RedisServers, tmp_path: Path) -> None:
    bus = open_pubsub(redis_url(redis, tmp_path), MemoryStore())
    listener = Listener(bus, CHANGES)
    await meet(bus, listener)
    pid = redis.servers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        began, longest = time.monotonic(), 0.0
        for revision in range(20_000):
            start = time.monotonic()
            await bus.publish(news(revision + 1))
            longest = max(longest, time.monotonic() - start)
        assert time.monotonic() - began < 5
        assert longest < 1
        assert bus.stats.dropped >= 20_000 - 10_000
    finally:
        os.kill(pid, signal.SIGCONT)
    await listener.end()
    await bus.close()


async def test_rubbish_on_redis_is_dropped_and_counted(redis: RedisServers, tmp_path: Path) -> None:
    bus = open_pubsub(redis_url(redis, tmp_path), MemoryStore())
    listener = Listener(bus, CHANGES)
    await meet(bus, listener)
    for rubbish in ("", "nonsense", "\1nonsense"):
        redis.servers[0].ctl("PUBLISH", f"{{dragonflow}}{tmp_path}:bus:{CHANGES}", rubbish)
    await bus.publish(news(9))
    await listener.until(lambda: listener.heard == [news(9)])
    assert bus.stats.unreadable == 3
    await listener.end()
    await bus.close()


async def test_a_bus_sends_what_was_published_before_it_was_closed(redis: RedisServers, tmp_path: Path) -> None:
    """As commands do, that publish once and end."""
    reader = open_pubsub(redis_url(redis, tmp_path), MemoryStore())
    listener = Listener(reader, CHANGES)
    await meet(reader, listener)
    sender = open_pubsub(redis_url(redis, tmp_path), MemoryStore())
    await sender.publish(news(5))
    await sender.close()
    await listener.until(lambda: listener.heard == [news(5)])
    await listener.end()
    await reader.close()


@pytest.mark.parametrize("url", ["redis://", "redis://host", "redis+nonsense://host:1", "redis://u:secret@host:1"])
def test_urls_of_redis_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(UnknownPubSub, match="pubsub_url") as error:
        open_pubsub(url, MemoryStore())
    assert "secret" not in str(error.value)


# -- ZeroMQ -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(f"sqlite://{tmp_path}/db")
    yield store
    await store.close()


@pytest.fixture
async def bus(store: Store, tmp_path: Path) -> AsyncIterator[ZmqPubSub]:
    bus = open_pubsub(f"zmq+ipc://{tmp_path}/bus", store)
    assert isinstance(bus, ZmqPubSub)
    yield bus
    await bus.close()


async def endpoints(store: Store) -> set[str]:
    return {record.key.id for record in (await store.snapshot([SCOPE])).records}


async def test_rubbish_is_dropped_counted_and_logged_once(
    store: Store, bus: ZmqPubSub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger with a socket and an endpoint sends anything; what is good still arrives."""
    listener = Listener(bus, CHANGES)
    await meet(bus, listener)
    stranger: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.bind(f"ipc://{tmp_path}/bus/stranger.sock")
    record = b'{"schema":"Endpoint/1","address":"ipc://%s/bus/stranger.sock"}' % bytes(tmp_path)
    await store.commit(Txn((Put(Key(SCOPE, "Endpoint", "stranger"), record),)))
    rng, topic, good = random.Random(1), wire.topic_frame(CHANGES), wire.pack(news(7))
    async with asyncio.timeout(10):
        while not listener.heard:
            stranger.send_multipart(good)
            await asyncio.sleep(0.01)
    sent = 0
    for _ in range(500):
        body = bytearray(good[1])
        for _ in range(rng.randrange(1, 5)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        frames = rng.choice(
            [[topic, bytes(body)], [topic, rng.randbytes(rng.randrange(100))], [topic], [topic, b"", b"x"]]
        )
        stranger.send_multipart(frames)
        sent += 1
    stranger.send_multipart(wire.pack(news(99)))
    await listener.until(lambda: listener.heard[-1] == news(99))
    assert bus.stats.unreadable > sent // 2
    assert len([r for r in caplog.records if "message dropped" in r.message]) == 1
    stranger.close()
    await listener.end()


def test_the_wire_reads_back_what_it_wrote_and_refuses_all_else() -> None:
    for message in (news(1), Message(CHANGES, ()), Message("żółć", (Record(A, b"", 2**40),))):
        assert wire.unpack(wire.pack(message)) == message
    rng, good = random.Random(2), wire.pack(news(7))
    for _ in range(20_000):
        frames = [bytearray(frame) for frame in good]
        for _ in range(rng.randrange(1, 4)):
            frame = rng.choice(frames)
            match rng.randrange(3):
                case 0:
                    frame[rng.randrange(len(frame)) :] = b""
                    frame += b"\0"
                case 1:
                    frame[rng.randrange(len(frame))] = rng.randrange(256)
                case 2:
                    frame += rng.randbytes(3)
        with contextlib.suppress(wire.Unreadable):
            wire.unpack([bytes(frame) for frame in frames])
    nested = bytes((wire.FORMAT,)) + b"\x91" * 100_000
    records = bytes((wire.FORMAT,)) + b"\x91"
    for frames in (
        [],
        [b"x"],
        [b"changes", good[1]],
        [good[0], b"\x02" + good[1][1:]],
        [good[0], nested],
        [good[0], records],
    ):
        with pytest.raises(wire.Unreadable):
            wire.unpack(frames)
    for key, revision in ((Key("", "k", "i"), 1), (Key("s", "k\0", "i"), 1), (A, 0), (A, -1)):
        with pytest.raises(wire.Unreadable):
            wire.unpack(wire.pack(Message(CHANGES, (Record(key, b"x", revision),))))


async def test_a_message_too_big_is_dropped_and_counted(bus: ZmqPubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_SIZE", 1000)
    await bus.publish(Message(CHANGES, (Record(A, b"x" * 2000, 1),)))
    assert (bus.stats.sent, bus.stats.dropped) == (0, 1)


async def test_sockets_are_private_and_go_with_their_bus(store: Store, bus: ZmqPubSub, tmp_path: Path) -> None:
    await bus.publish(news(1))
    directory = tmp_path / "bus"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(list(directory.iterdir())) == 1
    async with asyncio.timeout(10):
        while not await endpoints(store):
            await asyncio.sleep(0.005)
    await bus.close()
    assert list(directory.iterdir()) == []
    assert await endpoints(store) == set()


async def test_sockets_of_the_dead_are_removed_and_others_left(bus: ZmqPubSub, tmp_path: Path) -> None:
    directory = tmp_path / "bus"
    directory.mkdir(mode=0o700)
    living = socket.socket(socket.AF_UNIX)
    living.bind(str(directory / "living.sock"))
    living.listen()
    for name in ("dead.sock", "young.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / name))
    (directory / "notes.txt").touch()
    for name in ("dead.sock", "living.sock", "notes.txt"):
        os.utime(directory / name, (0, 0))
    await bus.publish(news(1))
    left = {path.name for path in directory.iterdir()}
    assert left > {"living.sock", "young.sock", "notes.txt"}
    assert len(left) == 4
    assert "dead.sock" not in left
    living.close()


async def test_a_directory_that_others_may_write_is_refused_until_it_is_mended(
    bus: ZmqPubSub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonflow.pubsub.zmq._RETRY_BIND", 0.0)
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus").chmod(0o777)
    await bus.publish(news(1))
    assert bus.stats.dropped == 1
    assert "chmod 700" in caplog.text
    (tmp_path / "bus").chmod(0o700)
    await bus.publish(news(2))
    assert bus.stats.sent == 1


PUBLISH = """
import asyncio, sys
from dragonflow.pubsub.protocol import CHANGES, Message
from dragonflow.pubsub.zmq import IpcTransport, ZmqPubSub
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Record
from pathlib import Path
async def main():
    store = open_store(f"sqlite://{sys.argv[1]}/db")
    bus = ZmqPubSub(store, IpcTransport(Path(sys.argv[1], "bus")), ttl=0.5)
    while True:
        await bus.publish(Message(CHANGES, (Record(Key("net:a", "Thing", "1"), b"x", 1),)))
        await asyncio.sleep(0.01)
asyncio.run(main())
"""


async def test_publishers_come_die_and_come_again(store: Store, bus: ZmqPubSub, tmp_path: Path) -> None:
    listener = Listener(bus, CHANGES)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", PUBLISH, str(tmp_path)])
        try:
            await listener.until(lambda: bool(listener.heard))
        finally:
            process.kill()
            process.wait()
        async with asyncio.timeout(10):
            while len(bus.peers) > 1:  # the dead one's lease ends; our own endpoint stays
                await asyncio.sleep(0.02)
        listener.heard.clear()
    await listener.end()


async def test_an_endpoint_stands_again_whatever_took_it(tmp_path: Path) -> None:
    store = MemoryStore()
    bus = open_pubsub(f"zmq+ipc://{tmp_path}/bus", store)
    assert isinstance(bus, ZmqPubSub)
    bus._ttl = 0.6
    store.hold("away")
    await bus.publish(news(1))
    await asyncio.sleep(0.02)
    store.hold(None)

    async def announced() -> str:
        async with asyncio.timeout(10):
            while not (found := await endpoints(store)):
                await asyncio.sleep(0.005)
        return found.pop()

    for _ in range(2):
        await announced()
        await store.revoke(next(iter(store.memory.leases)))
        assert not await endpoints(store)
    await store.commit(Txn((Delete(Key(SCOPE, "Endpoint", await announced())),)))
    await announced()
    await bus.close()


async def test_peers_that_vanished_in_an_outage_are_left(tmp_path: Path) -> None:
    store = MemoryStore()
    bus = open_pubsub(f"zmq+ipc://{tmp_path}/bus", store)
    assert isinstance(bus, ZmqPubSub)
    listener = Listener(bus, CHANGES)
    key = Key(SCOPE, "Endpoint", "gone")
    await store.commit(
        Txn((Put(key, b'{"schema":"Endpoint/1","address":"ipc://%s/bus/gone.sock"}' % bytes(tmp_path)),))
    )
    async with asyncio.timeout(10):
        while "gone" not in bus.peers:
            await asyncio.sleep(0.005)
        store.hold("away")
        store.memory.write([Delete(key)])
        store.compact()
        await asyncio.sleep(0.01)
        store.hold(None)
        while "gone" in bus.peers:
            await asyncio.sleep(0.005)
    await listener.end()
    await bus.close()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "ipc:///etc/passwd", "ipc://{}/bus/../x.sock", "rubbish", ""])
async def test_an_endpoint_elsewhere_is_not_connected_to(
    store: Store, bus: ZmqPubSub, tmp_path: Path, address: str
) -> None:
    listener = Listener(bus, CHANGES)
    record = b'{"schema":"Endpoint/1","address":"%s"}' % address.format(tmp_path).encode()
    await store.commit(
        Txn((Put(Key(SCOPE, "Endpoint", "odd"), record), Put(Key(SCOPE, "Endpoint", "odder"), b"rubbish")))
    )
    await meet(bus, listener)
    assert len(bus.peers) == 1
    await listener.end()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "stores",
        "store://x",
        "memory://",
        "zmq+ipc://",
        "zmq+ipc://relative",
        "zmq+tcp://",
        "zmq+tcp://a.name",
        "zmq+tcp://0.0.0.0",
        "redis://x",
    ],
)
def test_an_unknown_url_names_the_option(url: str) -> None:
    with pytest.raises(UnknownPubSub, match=r"\[df\] pubsub_url"):
        open_pubsub(url, MemoryStore())


def test_a_path_too_long_for_a_socket_is_refused_at_once() -> None:
    with pytest.raises(UnknownPubSub, match="bytes too long for a socket"):
        open_pubsub("zmq+ipc:///" + "x" * 100, MemoryStore())


async def test_ipv6_addresses_work() -> None:
    memory = Memory()
    one, two = (open_pubsub("zmq+tcp://[::1]", MemoryStore(memory)) for _ in range(2))
    listener = Listener(two, CHANGES)
    await meet(one, listener)
    await listener.end()
    await one.close()
    await two.close()


async def test_news_is_quick_once_sockets_have_met(buses: Buses) -> None:
    """No timing test: it only fails if a message waits for some timer."""
    sender, reader = buses(), buses()
    listener = Listener(reader, CHANGES)
    await meet(sender, listener)
    began = time.monotonic()
    for revision in range(50):
        await sender.publish(news(revision + 1))
        await listener.until(lambda revision=revision: listener.heard[-1:] == [news(revision + 1)])  # type: ignore[misc]
    assert time.monotonic() - began < 5
    await listener.end()
