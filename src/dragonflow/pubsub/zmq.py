"""A bus without a broker: every process that uses it binds one ZeroMQ PUB socket and tells its address in the DF DB.

The address is a record of kind ``Endpoint`` in the scope ``pubsub``, on a lease, so the dead vanish; subscribers follow that
scope and connect and disconnect. A subscriber that joins late, or whose queue is full, misses messages: the store has it all.

``zmq+ipc`` is guarded by the directory's mode (0700), ``zmq+tcp`` by keys (see ``curve``). Without keys its messages are neither
encrypted nor known to be the sender's: all that a forged one can do is have the store looked at in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import random
import socket
import stat
import time
import uuid
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio
from zmq.utils import z85

from dragonflow.pubsub import wire
from dragonflow.pubsub._subscription import Subscription
from dragonflow.pubsub.curve import Curve, KeyTrouble
from dragonflow.pubsub.protocol import Message, Stats
from dragonflow.store.feed import Backoff, Feed, ScopeReset
from dragonflow.store.protocol import Key, Record, Store, StoreError
from dragonflow.store.rights import BUS_SCOPE
from dragonflow.store.standing import Standing

LOG = logging.getLogger(__name__)

SCOPE = BUS_SCOPE
"""Where the endpoints stand in the DF DB."""

TTL = 15.0
"""Seconds after which the endpoint of a process that died is forgotten."""

HIGH_WATER = 10_000
"""Messages that may wait in a socket for one peer; beyond that they are lost."""

_DRAIN = 500  # messages taken from the socket before others on the loop have their turn
_LULL = 0.005  # seconds in which messages that come after others gather in the socket, to be taken together
_RETRY_BIND = 1.0  # seconds between attempts to bind
_HANDSHAKE = 5.0  # seconds until a connection must stand
_RETRY_PEERS = 5.0  # seconds between attempts at endpoints that were left out for their keys
_STALE = 5.0  # seconds that a socket file must be old before it can be a dead process's
_SOCKET_PATH = 107  # bytes of a unix socket's path, unix(7)
_LOG_EVERY = 60.0


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="schema", tag="Endpoint/1"):
    """Where a process publishes, and its public key, if it speaks with those alone who have one."""

    address: str
    key: str | None = None


class IpcTransport:
    """Unix sockets in a directory that only its owner may enter."""

    scheme = "ipc://"
    curve: Curve | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        longest = len(os.fsencode(directory)) + len("/4194304-12345678.sock")
        if longest > _SOCKET_PATH:
            raise ValueError(
                f"[df] pubsub_url: the path {directory} is {longest - _SOCKET_PATH} bytes too long for a socket"
            )

    def bind(self, pub: zmq.Socket[bytes]) -> str:
        """Bind to a fresh name and return the address. :raises OSError, zmq.ZMQError: say why not."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(self._directory.stat().st_mode) & 0o022:
            raise PermissionError(f"{self._directory} may be written by others: chmod 700 {self._directory}")
        self._clean()
        address = f"ipc://{self._directory}/{os.getpid()}-{uuid.uuid4().hex[:8]}.sock"
        pub.bind(address)
        return address

    def clear(self, address: str) -> None:
        """Remove what a bound socket leaves behind: libzmq doesn't."""
        Path(address.removeprefix(self.scheme)).unlink(missing_ok=True)

    def allows(self, address: str) -> bool:
        """Whether an announced address is one to connect to."""
        return address.startswith(f"ipc://{self._directory}/") and ".." not in address

    def _clean(self) -> None:
        """Remove the sockets on which nobody listens any more. A young one may be about to be listened on."""
        for path in self._directory.glob("*.sock"):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if time.time() - path.stat().st_mtime < _STALE:
                    continue
                probe.setblocking(False)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


class TcpTransport:
    """A free port of one address of this host; ``where`` is that of a URL: ``ADDRESS[?key=FILE&peers=DIRECTORY]``."""

    scheme = "tcp://"

    def __init__(self, where: str) -> None:
        address, _, query = where.partition("?")
        try:
            ip = ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            raise ValueError("behind zmq+tcp:// stands an IPv4 or IPv6 address of this host") from None
        self.curve = Curve.of(query)
        if ip.is_unspecified:
            raise ValueError(
                f"[df] pubsub_url: {address} is every address of this host; name one that other hosts reach"
            )
        self._host = f"[{ip}]" if ip.version == 6 else str(ip)

    def bind(self, pub: zmq.Socket[bytes]) -> str:
        """Bind and return the address with its port. :raises zmq.ZMQError: says why not."""
        pub.setsockopt(zmq.IPV6, self._host.startswith("["))
        pub.bind(f"tcp://{self._host}:*")
        return pub.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def clear(self, address: str) -> None:
        """A port leaves nothing behind."""

    def allows(self, address: str) -> bool:
        """Whether an announced address is one to connect to."""
        return address.startswith(self.scheme)


class ZmqPubSub:
    """The bus of one process. Sockets are opened by the first use, so in the process and on the loop that uses them."""

    def __init__(self, store: Store, transport: IpcTransport | TcpTransport, *, ttl: float = TTL) -> None:
        self._store = store
        self._transport = transport
        self._ttl = ttl
        self._pub: zmq.Socket[bytes] | None = None
        self._sub: zmq.asyncio.Socket | None = None
        self._judging: zmq.asyncio.Socket | None = None
        self._bound = ""
        self._endpoint: Standing | None = None
        self._ends: set[Subscription] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._bind_again = 0.0
        self._log_again = 0.0
        self._closed = False
        self._left_out: dict[str, Record] = {}
        self.peers: dict[str, str] = {}
        self.stats = Stats()

    async def publish(self, message: Message) -> None:
        """See ``PubSub``."""
        self._bind()
        frames = wire.pack(message)
        if self._pub is None or len(frames[1]) > wire.MAX_SIZE:
            self.stats.dropped += 1
            return
        try:
            self._pub.send_multipart(frames, zmq.NOBLOCK)
            self.stats.sent += 1
        except zmq.ZMQError as error:
            self.stats.dropped += 1
            self._log("message not sent: %s", error)

    async def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """See ``PubSub``."""
        if self._closed:
            return
        end = Subscription(topics, self.stats)
        self._bind()
        sub = self._listen()
        for topic in end.topics:
            sub.setsockopt(zmq.SUBSCRIBE, wire.topic_frame(topic))
        self._ends.add(end)
        try:
            async for message in end.messages():
                yield message
        finally:
            self._ends.discard(end)
            if not self._closed:
                for topic in end.topics:
                    sub.setsockopt(zmq.UNSUBSCRIBE, wire.topic_frame(topic))

    async def close(self) -> None:
        """See ``PubSub``."""
        self._closed = True
        for end in tuple(self._ends):
            end.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._endpoint is not None:
            with contextlib.suppress(StoreError):  # it goes with its lease
                await self._endpoint.withdraw(self._store)
        if self._sub is not None:
            self._sub.close(linger=0)
        if self._pub is not None:
            self._pub.close(linger=0)
            self._transport.clear(self._bound)
        self._pub = self._sub = None
        if self._judging is not None:
            self._judging.close(linger=0)
            self._judging.context.term()  # which waits for all its sockets, and these are closed
        self._judging = None

    # -- sending -------------------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        """Bind and announce, unless that is done; what fails is tried again later."""
        if self._closed or self._pub is not None or time.monotonic() < self._bind_again:
            return
        pub: zmq.Socket[bytes] = self._in_context().socket(zmq.PUB)
        _configure(pub)
        pub.setsockopt(zmq.SNDHWM, HIGH_WATER)
        curve, public = self._transport.curve, None
        try:
            if curve is not None:
                public = curve.guard(pub)
            address = self._transport.bind(pub)
        except (OSError, zmq.ZMQError, KeyTrouble) as error:
            pub.close(linger=0)
            self._bind_again = time.monotonic() + _RETRY_BIND
            self._log("can't publish, others will have news later: %s", error)
            return
        self._pub, self._bound = pub, address
        key = Key(SCOPE, "Endpoint", uuid.uuid4().hex)
        self._endpoint = Standing(key, msgspec.json.encode(Endpoint(address, public)), self._ttl)
        self._tasks.append(asyncio.create_task(self._announce(self._endpoint)))

    def _in_context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """That of the process, which is never destroyed: that would wait for ever for a socket that somebody forgot to close.

        With keys it is one of this bus alone, for in each context only one may judge who comes.
        """
        curve = self._transport.curve
        if curve is None:
            return zmq.Context.instance()
        if self._judging is None:
            self._judging = zmq.asyncio.Socket(zmq.Context(), zmq.REP)
            self._judging.bind("inproc://zeromq.zap.01")
            self._tasks.append(asyncio.create_task(self._judge(self._judging, curve)))
        return self._judging.context

    async def _judge(self, judging: zmq.asyncio.Socket, curve: Curve) -> None:
        """Answer ZeroMQ who may listen to us: peers (RFC 27).

        Others are let wait until their ``_HANDSHAKE`` is over (300), and then try again; after a 400 they never would.
        """
        while True:
            version, request, _domain, address, _identity, mechanism, *credentials = await judging.recv_multipart()
            why = "it has no key"
            if mechanism == b"CURVE" and credentials:
                key = z85.encode(credentials[0])
                try:
                    why = "" if curve.knows(key) else f"its key {key.decode()} is none of those in {curve.peers}"
                except KeyTrouble as error:
                    why = str(error)
            if why:
                self._log("%s may not listen: %s", address.decode(errors="replace"), why)
            said = (b"300", b"not now") if why else (b"200", b"")
            await judging.send_multipart([version, request, *said, b"", b""])

    async def _announce(self, endpoint: Standing) -> None:
        """Keep our endpoint standing in the DF DB until cancelled."""
        backoff, failures = Backoff(), 0
        while True:
            try:
                await endpoint.renew(self._store)
                failures = 0
                await asyncio.sleep(self._ttl / 3)
            except StoreError as error:
                failures += 1
                LOG.debug("endpoint not announced: %s", error)
                await asyncio.sleep(backoff.delay(failures, random.random()))

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _listen(self) -> zmq.asyncio.Socket:
        if self._sub is None:
            self._sub = zmq.asyncio.Socket(self._in_context(), zmq.SUB)
            _configure(self._sub)
            self._sub.setsockopt(zmq.RCVHWM, HIGH_WATER)
            self._sub.setsockopt(zmq.MAXMSGSIZE, wire.MAX_SIZE)
            self._tasks.append(asyncio.create_task(self._follow(self._sub)))
            self._tasks.append(asyncio.create_task(self._receive(self._sub)))
            if self._transport.curve is not None:
                self._tasks.append(asyncio.create_task(self._try_again(self._sub)))
        return self._sub

    async def _follow(self, sub: zmq.asyncio.Socket) -> None:
        """Be connected to exactly the endpoints that stand in the DF DB."""
        feed = Feed(self._store)
        await feed.add([SCOPE])
        async with contextlib.aclosing(feed):
            async for news in feed:
                if isinstance(news, ScopeReset):
                    standing = {record.key.id for record in news.records}
                    self._left_out = {node: record for node, record in self._left_out.items() if node in standing}
                    for node in self.peers.keys() - standing:
                        self._disconnect(sub, node)
                for record in news.records:
                    self._disconnect(sub, record.key.id, unless=record)
                    self._connect(sub, record)

    async def _try_again(self, sub: zmq.asyncio.Socket) -> None:
        """Their keys may have come among the peers' meanwhile."""
        while True:
            await asyncio.sleep(_RETRY_PEERS)
            for record in tuple(self._left_out.values()):
                self._connect(sub, record)

    def _connect(self, sub: zmq.asyncio.Socket, record: Record) -> None:
        self._left_out.pop(record.key.id, None)
        endpoint = _endpoint(record)
        if endpoint is None or record.key.id in self.peers:
            return
        curve = self._transport.curve
        try:
            if not self._transport.allows(endpoint.address):
                raise ValueError(f"it is none of this bus ({self._transport.scheme})")
            if (curve is None) != (endpoint.key is None):
                raise ValueError("either it has a key and we have none, or the other way round; see [df] pubsub_url")
            if curve is not None and endpoint.key is not None:
                curve.introduce(sub, endpoint.key)
            sub.connect(endpoint.address)
            self.peers[record.key.id] = endpoint.address
        except (ValueError, zmq.ZMQError, KeyTrouble) as error:
            self._left_out[record.key.id] = record
            self._log("endpoint %s left out: %s", endpoint.address, error)

    def _disconnect(self, sub: zmq.asyncio.Socket, node: str, unless: Record | None = None) -> None:
        """Leave a node, unless the record says that it stands where we are connected to."""
        endpoint = None if unless is None else _endpoint(unless)
        if node in self.peers and (endpoint is None or self.peers[node] != endpoint.address):
            with contextlib.suppress(zmq.ZMQError):
                sub.disconnect(self.peers.pop(node))

    async def _receive(self, sub: zmq.asyncio.Socket) -> None:
        """Take what has come without waiting, then wait: three times as fast as to wait for each."""
        raw: zmq.Socket[bytes] = zmq.Socket.shadow(sub.underlying)
        while True:
            await sub.poll()
            lull = 0.0
            for _ in range(_DRAIN):
                try:
                    frames = raw.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    lull = _LULL
                    break
                self._take(frames)
            await asyncio.sleep(lull)

    def _take(self, frames: list[bytes]) -> None:
        try:
            message = wire.unpack(frames)
        except wire.Unreadable as error:
            self.stats.unreadable += 1
            self._log("message dropped: %s (%d so far)", error, self.stats.unreadable)
            return
        for end in self._ends:
            end.offer(message)

    # -- both ----------------------------------------------------------------------------------------------------------

    def _log(self, text: str, *arguments: object) -> None:
        """Warn, but not more often than once a minute: a stranger may send us anything as fast as he likes."""
        if time.monotonic() >= self._log_again:
            self._log_again = time.monotonic() + _LOG_EVERY
            LOG.warning(text, *arguments)


def _configure(sock: zmq.Socket[bytes] | zmq.asyncio.Socket) -> None:
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.IPV6, 1)
    sock.setsockopt(zmq.HANDSHAKE_IVL, round(_HANDSHAKE * 1000))
    sock.setsockopt(zmq.RECONNECT_IVL, 50)  # ms
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    sock.setsockopt(zmq.HEARTBEAT_IVL, 5000)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)


def _endpoint(record: Record) -> Endpoint | None:
    """What a record announces; None if it is a deletion or no endpoint."""
    if record.data is None:
        return None
    try:
        return msgspec.json.decode(record.data, type=Endpoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
