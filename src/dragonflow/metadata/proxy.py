"""The metadata proxy: HTTP from guests to Nova's metadata API, each request in the name of the port from which it came.

A guest may send anything, as slowly as it likes, from as many connections as it likes. So everything is bounded: connections of
all guests and of one, sizes, and times. Who goes beyond gets an error or is cut off, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import h11
import httpx

from dragonflow.metadata import nova
from dragonflow.metadata.address import asker
from dragonflow.metadata.nova import Nova
from dragonflow.metadata.whose import Asker, Instance

LOG = logging.getLogger(__name__)

Whose = Callable[[Asker], Awaitable[Instance | None]]
"""Tells whose port it is that asks, None: nobody's. :raises Unknown: nobody can tell now."""

MOST, MOST_OF_ONE = 512, 16
"""Connections at once: of all guests, and of one port."""

LONGEST_HEAD, LONGEST_BODY = 16 * 1024, 64 * 1024
"""Bytes of a request's line and headers, and of its body."""

IDLE, EXCHANGE = 10.0, 60.0
"""Seconds within which a request must arrive, from the connection or the last answer on; and within which it is answered."""

QUIET = 10.0
"""Seconds in which the same complaint is logged once."""

_PIECE = 16 * 1024


class Unknown(Exception):
    """Nobody can tell now whose port it is."""


class _Refused(Exception):
    """The request gets this status, and a word on it."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Proxy:
    """``serve`` is for ``asyncio.start_server``."""

    def __init__(self, whose: Whose, upstream: Nova) -> None:
        self._whose = whose
        self._nova = upstream
        self._told: dict[str, float] = {}
        self._open: Counter[int] = Counter()  # by key of the port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a guest until either side ends it."""
        there, here = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        guest = asker(there[0], here[0]) if there and here else None  # it may be gone already
        if guest is None or self._open.total() >= MOST or self._open[guest.key] >= MOST_OF_ONE:
            writer.transport.abort()
            return
        self._open[guest.key] += 1
        try:
            await _Connection(reader, writer).serve(lambda *request: self._answer(guest, *request))
            writer.close()
            async with asyncio.timeout(IDLE):
                await writer.wait_closed()
        except (OSError, TimeoutError, h11.LocalProtocolError, httpx.HTTPError) as error:
            LOG.debug("a connection of port key %d is cut off: %r", guest.key, error)
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()  # the proxy ends; asyncio's streams take it for an error if their handler was cancelled
        finally:
            self._open[guest.key] -= 1
            if not self._open[guest.key]:
                del self._open[guest.key]

    async def _answer(self, guest: Asker, request: h11.Request, body: bytes) -> httpx.Response:
        if not request.target.startswith(b"/"):
            raise _Refused(HTTPStatus.BAD_REQUEST, "The request must name a path.")
        try:
            instance = await self._whose(guest)
        except Unknown as error:
            self._complain("can't tell who asks", error)
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Try again in a moment.") from error
        if instance is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "This port belongs to no instance.")
        try:
            return await self._nova.ask(request.method.decode(), request.target, request.headers, body, instance)
        except httpx.TimeoutException as error:
            self._complain("Nova's metadata API does not answer in time", error)
            raise _Refused(HTTPStatus.GATEWAY_TIMEOUT, "Nova does not answer in time.") from error
        except httpx.InvalidURL as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        except httpx.HTTPError as error:
            self._complain("Nova's metadata API can't be asked", error)
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Nova can't be reached.") from error

    def _complain(self, what: str, error: Exception) -> None:
        """Tell the operator, but not each time: a guest must not fill the log."""
        now = asyncio.get_running_loop().time()
        if now >= self._told.get(what, now):
            self._told[what] = now + QUIET
            LOG.warning("%s: %r", what, error)


_Answer = Callable[[h11.Request, bytes], Awaitable[httpx.Response]]


class _Connection:
    """HTTP/1.1 with a guest, one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)

    async def serve(self, answer: _Answer) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    request = await self._request()
                if request is None:
                    return
                async with asyncio.timeout(EXCHANGE):
                    await self._pass_on(request, await answer(*request))
            except h11.RemoteProtocolError as error:
                await self._refuse(_Refused(HTTPStatus(error.error_status_hint), str(error)))
            except _Refused as error:
                await self._refuse(error)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _request(self) -> tuple[h11.Request, bytes] | None:
        """The next request with its body; None: the guest has no more."""
        request = await self._next()
        if not isinstance(request, h11.Request):
            return None
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        while isinstance(event := await self._next(), h11.Data):
            body += event.data
            if len(body) > LONGEST_BODY:
                raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body may have {LONGEST_BODY} bytes.")
        return request, bytes(body)

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_PIECE))
        return event

    async def _pass_on(self, request: tuple[h11.Request, bytes], found: httpx.Response) -> None:
        """Give the guest what Nova says, piece by piece as it reads."""
        try:
            await self._send(h11.Response(status_code=found.status_code, headers=nova.answered(found.headers)))
            async for piece in found.aiter_raw(_PIECE):
                await self._send(h11.Data(piece))
            await self._send(h11.EndOfMessage())
        finally:
            await found.aclose()

    async def _refuse(self, error: _Refused) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        text = f"{error}\n".encode()
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text))), ("Connection", "close")]
        await self._send(h11.Response(status_code=error.status, headers=headers))
        await self._send(h11.Data(text))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()
