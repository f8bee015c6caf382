"""One OpenFlow 1.5 connection to a bridge, on the running asyncio loop.

Every request gets an xid of its own and its answer by that xid. Once the connection is lost (the peer went, sent what can't be
read, or stopped answering echoes), whoever waits and whoever comes gets ``Disconnected``; a lost connection stays lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Callable, Sequence
from functools import partial

from dragonflow.switch.openflow.errors import OpenFlowError, decode_error
from dragonflow.switch.openflow.messages import (
    COMMIT,
    DISCARD,
    HEADER,
    NX_PACKET_IN2,
    OPEN,
    VERSION,
    Message,
    Type,
    ask_for_packets,
    bundle_add,
    bundle_control,
)
from dragonflow.switch.remote import Remote, Tls

logger = logging.getLogger(__name__)

_WRITE_CHUNK = 256 * 1024
"""Bytes to hand to the transport between two looks at back-pressure."""

_HELLO = Message(Type.HELLO, struct.pack(">HHI", 1, 8, 1 << VERSION))
_BARRIER = Message(Type.BARRIER_REQUEST, b"")
_ECHO = Message(Type.ECHO_REQUEST, b"")
_MULTIPART_HEAD = struct.Struct(">HH4x")


class Disconnected(Exception):
    """There is no connection (any more); nothing is known of the fate of what was on its way."""


class Refused(Exception):
    """The switch refused: ``index`` says which of the messages sent, or None if the error names none of them."""

    def __init__(self, error: OpenFlowError, index: int | None) -> None:
        super().__init__(error.name)
        self.error, self.index = error, index


class _Asked:
    """A request on its way: what came for its xid so far."""

    __slots__ = ("done", "parts", "xid")

    def __init__(self, xid: int, loop: asyncio.AbstractEventLoop) -> None:
        self.xid = xid
        self.parts: list[bytes] = []
        self.done: asyncio.Future[None] = loop.create_future()


class Connection(asyncio.Protocol):
    """Made by ``Connection.open``; ``lost`` is done when the connection is gone, its result says why."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.datapath_id = 0
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._xids = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._sending = asyncio.Lock()
        self._watched = range(0)
        self._errors: list[OpenFlowError] = []
        self._heard = False
        self._on_packet: Callable[[bytes], None] | None = None
        self._keepalive: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, target: str, tls: Tls | None = None, *, patience: float = 10.0, echo_interval: float = 5.0
    ) -> Connection:
        """Connect to ``target`` (see ``switch.remote``), by ``tls`` if it says so, and shake hands.

        ``patience`` (seconds) bounds the handshake and each wait for an echo, which is asked for after ``echo_interval`` seconds
        of silence.

        :raises Disconnected: nobody listens, or who listens doesn't speak OpenFlow 1.5.
        :raises ValueError: ``target`` has another form.
        """
        loop = asyncio.get_running_loop()
        remote = Remote.parse(target)
        if remote.tls and tls is None:
            raise ValueError(f"{target}: there are no key, certificate and CA for it")
        self: Connection
        try:
            async with asyncio.timeout(patience):
                if remote.path:
                    _, self = await loop.create_unix_connection(cls, remote.path)
                else:
                    context = tls.context() if tls is not None and remote.tls else None
                    _, self = await loop.create_connection(cls, remote.host, remote.port, ssl=context)
                try:
                    await self._shake_hands()
                except BaseException:
                    self.close("no handshake")
                    raise
        except (OSError, TimeoutError) as error:
            raise Disconnected(f"{target}: {error or 'no answer'}") from error
        self._keepalive = loop.create_task(self._keep_alive(echo_interval, patience))
        return self

    def close(self, reason: str = "closed") -> None:
        """End the connection; all who wait get ``Disconnected``."""
        self._lose(reason)
        if self._transport is not None:
            self._transport.abort()

    async def request(self, message: Message) -> list[bytes]:
        """Send a message and return the bodies of its replies (of a multipart, without the multipart header).

        :raises Refused: the answer was an error.
        :raises Disconnected: the connection went before the answer came.
        """
        asked, data = self._prepare(message)
        self._write(data)
        return await self._answer(asked)

    async def barrier(self) -> None:
        """Return when the switch has done all that was sent before."""
        await self.request(_BARRIER)

    async def listen(self, on_packet: Callable[[bytes], None]) -> None:
        """From now on ``on_packet`` is told of each punted packet: the properties of an NXT_PACKET_IN2. It must not raise.

        :raises Refused: the switch can't tell of packets in this form.
        """
        self._on_packet = on_packet
        for refused in await self.send(tuple(ask_for_packets())):
            raise refused

    def post(self, message: Message) -> bool:
        """Send a message whose fate nobody waits for. Returns False, and sends nothing, while the switch is slow to take more.

        :raises Disconnected: there is no connection.
        """
        if not self._writable.is_set():
            return False
        self._write(_frame(message, next(self._xids)))
        return True

    async def send(self, messages: Sequence[Message]) -> list[Refused]:
        """Send messages one by one, outside any bundle, then wait for a barrier; returns what was refused."""
        async with self._sending:
            return await self._send_all(messages)

    async def bundle(self, messages: Sequence[Message], before: Sequence[Message] = ()) -> list[Refused]:
        """Send what must be done ``before``, one by one; then do all messages at once, in their order, or none of them.

        Open vSwitch would commit a bundle although it refused one of its messages while taking them in. So the commit is sent
        only after a barrier has shown that all were taken: two waits for the switch, one with all messages, one with the commit,
        and a barrier behind that.

        Returns what was refused; the index counts those ``before`` first. If anything was, nothing of the bundle was done.
        """
        async with self._sending:
            bundle = next(self._xids)
            opened, begin = self._prepare(bundle_control(bundle, OPEN))
            refused = await self._send_all(before, messages, bundle, begin)
            await self._answer(opened)
            if refused:
                await self.request(bundle_control(bundle, DISCARD))
                return refused
            (commit, end), (barrier, last) = self._prepare(bundle_control(bundle, COMMIT)), self._prepare(_BARRIER)
            self._write(end + last)
            try:
                await self._answer(commit)
            except Refused as error:
                # the error that names the failing message comes before the one that ends the commit
                refused = self._refused() or [Refused(error.error, None)]
            finally:
                self._watched = range(0)
            await self._answer(barrier)
            return refused

    async def _shake_hands(self) -> None:
        self._write(_frame(_HELLO, next(self._xids)))
        await self._hello
        (reply,) = await self.request(Message(Type.FEATURES_REQUEST, b""))
        (self.datapath_id,) = struct.unpack_from(">Q", reply)

    async def _send_all(
        self, single: Sequence[Message], bundled: Sequence[Message] = (), bundle: int = 0, begin: bytes = b""
    ) -> list[Refused]:
        """Write ``begin``, the messages with consecutive xids, and a barrier: in one piece, so that the switch is woken once.

        Errors are collected under ``_watched`` from now on.
        """
        first = next(self._xids)
        self._watched, self._errors = range(first, first + len(single) + len(bundled)), []
        self._xids = itertools.count(self._watched.stop)
        chunk, size = [begin], 0
        frames = map(partial(bundle_add, bundle), self._watched[len(single) :], bundled)
        for frame in itertools.chain(map(_frame, single, self._watched), frames):
            chunk.append(frame)
            size += len(frame)
            if size > _WRITE_CHUNK:
                self._write(b"".join(chunk))
                await self._writable.wait()
                chunk, size = [], 0
        barrier, last = self._prepare(_BARRIER)
        self._write(b"".join((*chunk, last)))
        await self._answer(barrier)
        return self._refused()

    def _refused(self) -> list[Refused]:
        return [Refused(error, error.xid - self._watched.start) for error in self._errors]

    def _prepare(self, message: Message) -> tuple[_Asked, bytes]:
        """A request to be written as these bytes, for whose answer one can wait then."""
        asked = _Asked(next(self._xids), self._loop)
        self._asked[asked.xid] = asked
        return asked, _frame(message, asked.xid)

    async def _answer(self, asked: _Asked) -> list[bytes]:
        try:
            await asked.done
        finally:
            self._asked.pop(asked.xid, None)
        return asked.parts

    def _write(self, data: bytes) -> None:
        if self.lost.done() or self._transport is None:
            raise Disconnected(self.lost.result() if self.lost.done() else "not connected")
        self._transport.write(data)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._lose(str(exc) if exc else "closed by the switch")

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._heard = True
        received = self._received
        received += data
        at, end = 0, len(received)
        try:
            while end - at >= HEADER.size:
                version, kind, length, xid = HEADER.unpack_from(received, at)
                if length < HEADER.size or (version != VERSION and kind != Type.HELLO and self._hello.done()):
                    raise ValueError(f"a message of version {version}, type {kind}, {length} bytes")
                if end - at < length:
                    break
                self._take(version, kind, xid, bytes(received[at + HEADER.size : at + length]))
                at += length
            del received[:at]
        except Exception as error:  # whatever the peer sent, the loop must live
            self.close(f"can't read what the switch sends: {error}")

    def _take(self, version: int, kind: int, xid: int, body: bytes) -> None:
        if kind == Type.HELLO:
            if not _speaks(version, body):
                raise ValueError("no OpenFlow 1.5; set it in the bridge's protocols")
            if not self._hello.done():
                self._hello.set_result(None)
        elif kind == Type.ECHO_REQUEST:
            self._write(_frame(Message(Type.ECHO_REPLY, body), xid))
        elif kind == Type.ERROR:
            self._take_error(decode_error(xid, body))
        elif kind == Type.EXPERIMENTER and body.startswith(NX_PACKET_IN2):
            if self._on_packet is not None:
                self._on_packet(body[len(NX_PACKET_IN2) :])
        elif asked := self._asked.get(xid):
            more = False
            if kind == Type.MULTIPART_REPLY:
                more = bool(_MULTIPART_HEAD.unpack_from(body)[1] & 1)
                body = body[_MULTIPART_HEAD.size :]
            asked.parts.append(body)
            if not more and not asked.done.done():
                asked.done.set_result(None)

    def _take_error(self, error: OpenFlowError) -> None:
        asked = self._asked.get(error.xid)
        if asked is not None and not asked.done.done():
            asked.done.set_exception(Refused(error, None))
        elif error.xid in self._watched:
            self._errors.append(error)
        elif error.name.startswith("OFPHFC_"):
            self.close(f"{error.name}: the bridge must allow OpenFlow 1.5 in its protocols")
        else:
            logger.warning("The switch sent an error about nothing asked: %s (xid %d)", error.name, error.xid)

    def _lose(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self._writable.set()
        if self._keepalive is not None:
            self._keepalive.cancel()
        for waiting in (self._hello, *(asked.done for asked in self._asked.values())):
            if not waiting.done():
                waiting.set_exception(Disconnected(reason))
                waiting.exception()  # nobody may be waiting any more

    async def _keep_alive(self, interval: float, patience: float) -> None:
        """Lose the connection when nothing at all is heard through two turns with an echo each."""
        missed = 0
        while missed < 2:
            self._heard = False
            await asyncio.sleep(interval)
            if self._heard:
                missed = 0
                continue
            try:
                async with asyncio.timeout(patience):
                    await self.request(_ECHO)
                missed = 0
            except TimeoutError:
                missed += 1
            except Disconnected:
                return
        self.close("no answer to echo requests")


def _frame(message: Message, xid: int) -> bytes:
    return HEADER.pack(VERSION, message.type, HEADER.size + len(message.body), xid) + message.body


def _speaks(version: int, body: bytes) -> bool:
    """Whether a HELLO agrees to our version: by its bitmap (§7.5.1), or, without one, by its header."""
    at = 0
    while len(body) - at >= 8:
        kind, length, bitmap = struct.unpack_from(">HHI", body, at)
        if kind == 1:
            return bool(bitmap >> VERSION & 1)
        at += max(length + 7 & ~7, 8)
    return version >= VERSION
