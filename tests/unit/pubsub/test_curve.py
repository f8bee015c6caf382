"""A bus of ZeroMQ with keys: peers hear and are heard, nobody else. ``test_buses`` runs all else with keys, too."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.auth
from typer.testing import CliRunner

import dragonflow.pubsub.zmq as module
from dragonflow.cli.main import app
from dragonflow.pubsub import UnknownPubSub, open_pubsub, wire
from dragonflow.pubsub.curve import Curve, KeyTrouble, create
from dragonflow.pubsub.protocol import CHANGES, Message
from dragonflow.pubsub.zmq import SCOPE, Endpoint, ZmqPubSub
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Key, Put, Record, Txn

NEWS = Message(CHANGES, (Record(Key("net:a", "Thing", "1"), b"x", 1),))
FRAMES = wire.pack(NEWS)


class Region:
    """Hosts with a key each, one directory of peers, and one DF DB."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.peers = directory / "peers"
        self.peers.mkdir(0o755)
        self.memory = Memory()
        self.buses: list[ZmqPubSub] = []

    def host(self, name: str, *, known: bool = True) -> ZmqPubSub:
        _, secret = create(self.directory / name, name)
        if known:
            self.introduce(name)
        bus = open_pubsub(f"zmq+tcp://127.0.0.1?key={secret}&peers={self.peers}", MemoryStore(self.memory))
        assert isinstance(bus, ZmqPubSub)
        self.buses.append(bus)
        return bus

    def introduce(self, name: str) -> None:
        (self.peers / f"{name}.key").write_bytes((self.directory / name / f"{name}.key").read_bytes())

    async def address_of(self, bus: ZmqPubSub) -> Endpoint:
        await bus.publish(NEWS)
        while True:
            for record in (await MemoryStore(self.memory).snapshot([SCOPE])).records:
                endpoint = msgspec.json.decode(record.data or b"", type=Endpoint)
                if endpoint.address == bus._bound:
                    return endpoint
            await asyncio.sleep(0.005)


@pytest.fixture
async def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Region]:
    monkeypatch.setattr(module, "_RETRY_PEERS", 0.05)
    monkeypatch.setattr(module, "_HANDSHAKE", 0.5)
    region = Region(tmp_path)
    async with asyncio.timeout(20):
        yield region
        for bus in region.buses:
            await bus.close()


async def hear(listener: ZmqPubSub, *speakers: ZmqPubSub) -> None:
    """Return once a message came; speakers speak until then."""
    async with contextlib.aclosing(listener.subscribe([CHANGES])) as messages:
        waiting = asyncio.ensure_future(anext(aiter(messages)))
        while not waiting.done():
            for speaker in speakers:
                await speaker.publish(NEWS)
            await asyncio.sleep(0.01)
        assert await waiting == NEWS


async def test_peers_hear_each_other_and_strangers_hear_nothing(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = region.host("one"), region.host("two")
    endpoint = await region.address_of(one)
    assert endpoint.key is not None
    strangers = [_stranger(endpoint), _stranger(endpoint, keys=zmq.curve_keypair())]
    await hear(two, one)
    await hear(one, two)
    for _, monitor in strangers:
        await _turned_away(monitor)
    await hear(two, one)
    for stranger, _ in strangers:
        with pytest.raises(zmq.Again):
            stranger.recv_multipart(zmq.NOBLOCK)
        stranger.disable_monitor()
        stranger.close(linger=0)
    assert "may not listen" in caplog.text
    assert endpoint.key in (region.peers / "one.key").read_text()


async def test_who_speaks_with_an_unknown_key_is_not_listened_to_until_it_is_known(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    """Writing an endpoint into the DF DB is not enough to be heard."""
    one, stranger = region.host("one"), region.host("stranger", known=False)
    await region.address_of(stranger)
    listening = asyncio.ensure_future(hear(one, stranger))
    while "is none of those in" not in caplog.text:
        await asyncio.sleep(0.01)
    assert one.peers.keys() == set() or all(address != stranger._bound for address in one.peers.values())
    assert not listening.done()
    region.introduce("stranger")
    await listening  # tried again by itself


async def test_who_was_turned_away_comes_again_once_it_is_known(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = region.directory / "elsewhere"
    elsewhere.mkdir(0o755)
    one = region.host("one")
    secret = create(region.directory / "late", "late")[1]
    (elsewhere / "one.key").write_bytes((region.peers / "one.key").read_bytes())
    late = open_pubsub(f"zmq+tcp://127.0.0.1?key={secret}&peers={elsewhere}", MemoryStore(region.memory))
    assert isinstance(late, ZmqPubSub)
    region.buses.append(late)
    listening = asyncio.ensure_future(hear(late, one))
    while "may not listen" not in caplog.text:
        await asyncio.sleep(0.01)
    assert not listening.done()
    region.introduce("late")
    await listening


async def test_with_keys_and_without_nobody_meets(region: Region, caplog: pytest.LogCaptureFixture) -> None:
    one = region.host("one")
    plain = open_pubsub("zmq+tcp://127.0.0.1", MemoryStore(region.memory))
    assert isinstance(plain, ZmqPubSub)
    region.buses.append(plain)
    await region.address_of(one)
    assert (await region.address_of(plain)).key is None
    tasks = [asyncio.ensure_future(hear(one, plain)), asyncio.ensure_future(hear(plain, one))]
    while len(one._left_out) != 1 or len(plain._left_out) != 1 or len(one.peers) != 1 or len(plain.peers) != 1:
        await asyncio.sleep(0.01)
    assert set(one.peers.values()) == {one._bound}
    assert set(plain.peers.values()) == {plain._bound}
    assert "either it has a key" in caplog.text
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_pretender_at_a_peers_address_is_found_out(region: Region) -> None:
    """Who answers must have the key that the DF DB names, not just the address."""
    one = region.host("one")
    region.host("two")
    pretender = zmq.Context.instance().socket(zmq.PUB)
    public, secret = zmq.curve_keypair()
    pretender.curve_server, pretender.curve_secretkey = True, secret
    port = pretender.bind_to_random_port("tcp://127.0.0.1")
    key = zmq.auth.load_certificate(region.peers / "two.key")[0].decode()  # pyzmq reads our files
    assert key != public.decode()
    row = msgspec.json.encode(Endpoint(f"tcp://127.0.0.1:{port}", key))
    await MemoryStore(region.memory).commit(Txn((Put(Key(SCOPE, "Endpoint", "pretender"), row),)))
    listening = asyncio.ensure_future(hear(one))
    while "pretender" not in one.peers:
        await asyncio.sleep(0.01)
    for _ in range(20):
        pretender.send_multipart(FRAMES)
        await asyncio.sleep(0.01)
    assert not listening.done()
    assert one.stats.received == 0
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    pretender.close(linger=0)


def _stranger(
    endpoint: Endpoint, keys: tuple[bytes, bytes] | None = None
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """Listens at an endpoint as somebody who knows its key; without ``keys`` in clear. The other socket tells of it."""
    sub: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    monitor = sub.get_monitor_socket()
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    if keys is not None:
        assert endpoint.key is not None
        sub.curve_publickey, sub.curve_secretkey, sub.curve_serverkey = *keys, endpoint.key.encode()
    sub.connect(endpoint.address)
    return sub, monitor


async def _turned_away(monitor: zmq.Socket[bytes]) -> None:
    """Return once the other side has ended a connection before it stood."""
    event = 0
    while event not in (zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
        if not monitor.poll(0):
            await asyncio.sleep(0.01)
            continue
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_command_makes_keys_that_their_owner_alone_may_read(tmp_path: Path) -> None:
    command = ["keys", "create", "h1", "--directory", str(tmp_path / "curve")]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0
    secret, public = tmp_path / "curve/h1.key_secret", tmp_path / "curve/h1.key"
    assert f"?key={secret}&peers=" in made.output
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    pair = Curve(secret, tmp_path).pair()
    assert zmq.auth.load_certificate(secret) == pair
    assert zmq.auth.load_certificate(public) == (pair.public, None)
    assert pair.secret.decode() not in made.output
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "there already" in again.output) == (1, True)
    assert Curve(secret, tmp_path).pair() == pair
    for name in ("", "..", "a/b", ".hidden"):
        assert CliRunner().invoke(app, ["keys", "create", "--directory", str(tmp_path), "--", name]).exit_code == 1


def test_keys_that_are_no_secret_or_none_are_refused(tmp_path: Path) -> None:
    public, secret = create(tmp_path, "h1")
    curve = Curve(secret, tmp_path)
    secret.chmod(0o604)
    with pytest.raises(KeyTrouble, match=r"chmod o= .*h1.key_secret"):
        curve.pair()
    with pytest.raises(KeyTrouble, match="holds no pair of keys"):
        _of(public, tmp_path, 0o600).pair()
    with pytest.raises(KeyTrouble, match="No such file"):
        Curve(tmp_path / "none", tmp_path).pair()
    secret.chmod(0o600)
    with pytest.raises(KeyTrouble, match="No such file"):
        Curve(secret, tmp_path / "none").knows(b"")
    tmp_path.chmod(0o775)
    with pytest.raises(KeyTrouble, match="chmod go-w"):
        curve.knows(b"")


def _of(key: Path, peers: Path, mode: int) -> Curve:
    key.chmod(mode)
    return Curve(key, peers)


def test_a_peer_counts_from_when_its_file_is_there_until_it_goes(tmp_path: Path) -> None:
    curve = Curve(create(tmp_path / "h1", "h1")[1], tmp_path / "peers")
    (tmp_path / "peers").mkdir(0o755)
    (tmp_path / "peers" / "junk.key").write_bytes(b"\xff")
    other = create(tmp_path / "h2", "h2")[0]
    key = zmq.auth.load_certificate(other)[0]
    assert curve.knows(curve.pair().public)
    assert not curve.knows(key)
    copy = tmp_path / "peers" / "h2.key"
    copy.write_bytes(other.read_bytes())
    assert curve.knows(key)
    copy.unlink()
    assert not curve.knows(key)


@pytest.mark.parametrize("query", ["?key=/k", "?peers=/p", "?key=k&peers=/p", "?key=/k&peers=/p&more=1", "?sesame"])
def test_a_url_that_names_half_of_it_is_refused(query: str) -> None:
    with pytest.raises(UnknownPubSub, match="key=FILE and peers=DIRECTORY") as refused:
        open_pubsub(f"zmq+tcp://127.0.0.1{query}", MemoryStore(Memory()))
    assert "sesame" not in str(refused.value)
