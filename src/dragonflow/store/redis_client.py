"""How processes speak with Redis: the URL, one connection, and ``RedisServer``, which finds the master and lends connections.

A command is sent once. What did not answer may have been done all the same, and only who asked knows whether to ask again; so
nothing is ever repeated here, other than in redis-py (docs/decisions/0012). All trouble is ``Unavailable``, with the fix.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hiredis

from dragonflow.store._rediserrors import MANUAL, ReplyError, explain
from dragonflow.store._url import ServerUrl, UnknownStore, read_password, read_pem
from dragonflow.store.protocol import StoreError, Unavailable

__all__ = ["Connection", "RedisServer", "RedisUrl", "ReplyError"]

LOG = logging.getLogger(__name__)

PREFIX = "{dragonflow}"
"""Where all our keys and channels begin, unless the URL says otherwise. The braces keep them on one node of a cluster."""

CONNECT_TIMEOUT = 3.0
"""Seconds for a connection to stand, the server's greeting included."""

TIMEOUT = 3.0
"""Seconds for an answer: so long a server may be stopped before that shows."""

LATEST = 2.5
"""Seconds within which a server has to begin with a write: less than ``TIMEOUT``, and than LONGEST in write.lua, by what we may
misjudge its clock before that shows."""

HEARTBEAT = 2.0
"""Seconds of silence after which the server is asked whether it is still there."""

WAIT_TIMEOUT = 1.0
"""Seconds for replicas to acknowledge a commit."""

POOL = 16
"""Connections of one process at most, those that listen not counted."""

OLDEST = (7, 0)
"""The Redis that has what the scripts need (script flags)."""

FORMS = (
    "redis://[USER@]HOST:PORT[/DB], redis+tls://…, redis+unix://[USER@]/SOCKET[?db=DB] or "
    "redis+sentinel[+tls]://[USER@]HOST:PORT[,HOST:PORT…]/MASTER[/DB], with ?password_file=FILE, prefix=TEXT and wait=N"
)

Where = tuple[str, int] | str
"""A host with a port, or the path of a socket."""


class RedisUrl(NamedTuple):
    """What a URL says. ``master`` is the Sentinels' name for the servers; then ``endpoints`` are those of Sentinels."""

    endpoints: tuple[Where, ...]
    master: str | None
    tls: bool
    database: int
    prefix: str
    wait: int | None
    user: str | None
    password_file: Path | None
    ca: Path | None
    cert: Path | None
    key: Path | None

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """:raises UnknownStore: naming the part that is wrong, and the fix."""
        scheme = text.partition("://")[0]
        kinds = scheme.split("+")[1:]
        if kinds not in ([], ["tls"], ["unix"], ["sentinel"], ["sentinel", "tls"]):
            raise UnknownStore(f"{text!r} is no URL of a DF DB: there is no scheme {scheme!r}; write {FORMS}")
        url = ServerUrl.parse(
            text, form=FORMS, tls="tls" in kinds, more=("prefix", "wait", "db"), servers="unix" not in kinds
        )
        master, path, database = None, url.path.strip("/"), url.options.get("db", "0")
        endpoints: tuple[Where, ...]
        if "unix" in kinds:
            if not path:
                raise url.refuse(FORMS, "it names no socket")
            endpoints = (f"/{path}",)
        else:
            endpoints = tuple(_endpoint(each) for each in url.endpoints)
            if "sentinel" in kinds:
                master, _, path = path.partition("/")
                if not master:
                    raise url.refuse(FORMS, "it does not say by which name the Sentinels know the master")
            elif len(endpoints) > 1:
                raise url.refuse(FORMS, "only Sentinels may be several")
            database = path or database
        return cls(
            endpoints,
            master,
            "tls" in kinds,
            _number("database", database, url),
            url.options.get("prefix", PREFIX),
            _number("wait", url.options["wait"], url) if "wait" in url.options else None,
            url.user,
            *(
                Path(url.options[name]) if name in url.options else None
                for name in ("password_file", "ca", "cert", "key")
            ),
        )


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _number(what: str, text: str, url: ServerUrl) -> int:
    if not (text.isascii() and text.isdigit()):
        raise url.refuse(FORMS, f"the {what} {text!r} is no number")
    return int(text)


def shown(where: Where) -> str:
    """For people."""
    return where if isinstance(where, str) else f"{where[0]}:{where[1]}"


class Connection:
    """One connection. Requests are answered in their order; who gives up on an answer must close it."""

    def __init__(self, where: Where, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.where = where
        self.wait = 0
        self.closed = False
        self._ahead = 0.0
        self._reader, self._writer = reader, writer
        self._replies = hiredis.Reader(protocolError=_ProtocolError, replyError=ReplyError, notEnoughData=_NOTHING)

    @classmethod
    async def open(cls, where: Where, context: ssl.SSLContext | None) -> Connection:
        """:raises OSError: it can't be reached, or TLS fails."""
        if isinstance(where, str):
            return cls(where, *await asyncio.open_unix_connection(where))
        reader, writer = await asyncio.open_connection(*where, ssl=context, happy_eyeballs_delay=0.25)
        return cls(where, reader, writer)

    def send(self, *command: str | bytes | int) -> None:
        """Put a command on its way."""
        self._writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub forgets that there may be several

    async def receive(self) -> Any:
        """The next reply, or message of a channel; errors are returned, not raised.

        :raises OSError: the connection has ended, or what came is no Redis.
        """
        while (reply := self._replies.gets()) is _NOTHING:
            data = await self._reader.read(1 << 18)
            if not data:
                raise ConnectionResetError("the connection was closed")
            self._replies.feed(data)
        return reply

    async def hear(self) -> Any:
        """The next message, however long it takes; a server that says nothing for a while is asked whether it is still there.

        :raises OSError: see ``receive``; TimeoutError is one, and means that it isn't.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT):
                return await self.receive()
        self.send("PING")
        async with asyncio.timeout(TIMEOUT):
            return await self.receive()

    async def call(self, *command: str | bytes | int, patience: float = TIMEOUT) -> Any:
        """Send a command and wait for its answer.

        :raises ReplyError: the server refused. :raises OSError: see ``receive``; TimeoutError is one.
        """
        async with asyncio.timeout(patience):
            self.send(*command)
            await self._writer.drain()
            reply = await self.receive()
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def learn_clock(self, now: int) -> None:
        """The server's answer that just came says that its clock shows ``now`` milliseconds, or did a moment ago."""
        self._ahead = now / 1000 - time.monotonic()

    def latest(self) -> int:
        """The millisecond of the server's clock after which it shall leave a write that is sent now, as ``LATEST`` says.

        Rather too early, by what an answer takes on its way, than too late.
        """
        return int((time.monotonic() + self._ahead + LATEST) * 1000)

    def close(self) -> None:
        """End it now; who waits for an answer is told."""
        self.closed = True
        self._writer.transport.abort()


_NOTHING = object()

_LOOK_AGAIN = {"READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "NOPERM", "WRONGPASS", "UNBLOCKED"}
"""Errors after which a fresh connection may do better: the server is no master any more, or our rights were changed."""


class _ProtocolError(OSError):
    """What came is not the protocol of Redis."""


class RedisServer:
    """The server behind a URL, through whatever fail-overs. Nothing is opened before the first request.

    ``name`` is what the server's CLIENT LIST shows. To be used on one event loop.
    """

    def __init__(self, url: RedisUrl, name: str = "dragonflow") -> None:
        self.url = url
        self._name = name
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(POOL)
        self._master: Where | None = None
        self._sentinels = list(url.endpoints)
        self._following: asyncio.Task[None] | None = None
        self._warned: set[str] = set()
        self._closed = False

    @property
    def where(self) -> str:
        """The server, or how it is looked for."""
        if self._master is not None:
            return shown(self._master)
        return " ".join(map(shown, self.url.endpoints))

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """A connection for some requests. One that fails is closed, and with it all that are idle: the next are fresh.

        :raises Unavailable: with the reason and the fix.
        """
        async with self._room:
            connection = None
            try:
                while self._idle:
                    connection = self._idle.pop()
                    if not connection.closed:
                        break
                else:
                    connection = await self.connect()
                yield connection
            except ReplyError as error:
                if error.code in _LOOK_AGAIN:
                    self.give_up(connection)
                raise Unavailable(explain(self._at(connection), error)) from error
            except OSError as error:
                self.give_up(connection)
                raise Unavailable(explain(self._at(connection), error)) from error
            except StoreError:
                raise
            except BaseException:  # an answer may be on its way
                self.give_up(connection, others=False)
                raise
            finally:
                if connection is not None and not connection.closed:
                    self._idle.append(connection)

    @contextlib.contextmanager
    def until_lost(self, connection: Connection) -> Iterator[None]:
        """What lasts as long as a connection that was made with ``connect``; it is closed in the end.

        :raises Unavailable: instead of the connection's own errors, with the reason and the fix.
        """
        try:
            yield
        except (ReplyError, OSError) as error:
            raise Unavailable(explain(shown(connection.where), error)) from error
        finally:
            self.give_up(connection)

    def give_up(self, connection: Connection | None, others: bool = True) -> None:
        """Close a connection, and all ``others`` that nobody uses now: what made it fail is likely theirs too."""
        for each in [connection, *(self._idle if others else ())]:
            if each is not None:
                each.close()
                self._open.discard(each)
        self._idle = [each for each in self._idle if not each.closed]

    async def connect(self) -> Connection:
        """A fresh connection to the master, greeted and looked over; whoever asks closes it with ``give_up``.

        :raises Unavailable: with the reason and the fix.
        """
        if self._closed:
            raise Unavailable("the connection to Redis was closed")
        context = self._tls()
        if self.url.master is None:
            return await self._connect(self.url.endpoints[0], context)
        if self._following is None:
            self._following = asyncio.create_task(self._follow_sentinels())
        return await self._connect(await self._ask_sentinels(context), context)

    async def close(self) -> None:
        """Close all connections; requests that run, and those that come, are ``Unavailable``."""
        self._closed = True
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        for connection in tuple(self._open):
            self.give_up(connection)

    # -- one server ----------------------------------------------------------------------------------------------------

    async def _connect(self, where: Where, context: ssl.SSLContext | None) -> Connection:
        connection = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await Connection.open(where, context)
                self._open.add(connection)
                await self._authenticate(connection)
                if self.url.database:
                    await connection.call("SELECT", self.url.database)
                await connection.call("CLIENT", "SETNAME", f"{self._name}-{os.getpid()}")
                text = await connection.call("INFO", "server", "replication", "memory", "persistence", "cluster")
                info = _info(text)
                connection.learn_clock(int(info.get("server_time_usec", "0")) // 1000)
                self._look_over(where, info)
        except (ReplyError, OSError) as error:
            self.give_up(connection)
            raise Unavailable(explain(shown(where), error)) from error
        except BaseException:
            self.give_up(connection)
            raise
        connection.wait = int(self.url.master is not None) if self.url.wait is None else self.url.wait
        if self._master not in (None, where):
            LOG.warning("the Redis master is now at %s, not at %s", shown(where), self.where)
        self._master = where
        return connection

    async def _authenticate(self, connection: Connection) -> None:
        if self.url.user is not None and self.url.password_file is not None:
            await connection.call("AUTH", self.url.user, read_password(self.url.password_file))

    def _look_over(self, where: Where, info: dict[str, str]) -> None:
        """Refuse a server that would lose what we write, or that isn't one to write to."""
        found = info.get("redis_version", "0")
        if tuple(map(int, found.split(".")[:2])) < OLDEST:
            raise Unavailable(
                f"Redis at {shown(where)} is version {found}: upgrade it to {'.'.join(map(str, OLDEST))} or newer"
            )
        if info.get("cluster_enabled") == "1":
            raise Unavailable(explain(shown(where), ReplyError("CLUSTERDOWN cluster-enabled yes")))
        if info.get("role") != "master":
            raise Unavailable(explain(shown(where), ReplyError(f"READONLY role {info.get('role')}")))
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
            raise Unavailable(
                f"Redis at {shown(where)} would throw rows away when its memory is full (maxmemory-policy {policy}): "
                "CONFIG SET maxmemory-policy noeviction, and write that to its configuration"
            )
        if info.get("aof_enabled") == "0":
            self._warn(
                f"Redis at {shown(where)} keeps no append-only file: what was written since its last snapshot is lost when "
                f"it ends; set appendonly yes (see {MANUAL})"
            )

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            LOG.warning("%s", text)

    def _tls(self) -> ssl.SSLContext | None:
        if not self.url.tls:
            return None
        for name in ("ca", "cert", "key"):
            if (path := getattr(self.url, name)) is not None:
                read_pem(name, path)  # for its error: ssl's doesn't name the file
        try:
            context = ssl.create_default_context(cafile=self.url.ca)
            if self.url.cert is not None:
                context.load_cert_chain(self.url.cert, self.url.key, password="")  # or a passphrase would be asked for
        except OSError as error:
            raise Unavailable(
                f"ca, cert or key in the URL of Redis at {self.where}: {error}; write PEM files"
            ) from error
        return context

    def _at(self, connection: Connection | None) -> str:
        return self.where if connection is None else shown(connection.where)

    # -- Sentinels -----------------------------------------------------------------------------------------------------

    async def _ask_sentinels(self, context: ssl.SSLContext | None) -> Where:
        """Where the master is, by the first Sentinel that answers."""
        assert self.url.master is not None
        errors = []
        for sentinel in tuple(self._sentinels):
            try:
                async with self._sentinel(sentinel, context) as connection:
                    address = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.url.master)
                    if address is None:
                        raise Unavailable(
                            f"the Sentinel at {shown(sentinel)} knows no master {self.url.master!r}; see [df] store_url"
                        )
            except (OSError, ReplyError) as error:
                errors.append(explain(shown(sentinel), error))
                self._sentinels.remove(sentinel)  # ask it last from now on
                self._sentinels.append(sentinel)
                continue
            return address[0].decode(), int(address[1])
        raise Unavailable("no Sentinel answers: " + "; ".join(errors))

    @contextlib.asynccontextmanager
    async def _sentinel(self, where: Where, context: ssl.SSLContext | None) -> AsyncIterator[Connection]:
        """A connection to a Sentinel, with our user only if it asks for one."""
        connection = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await Connection.open(where, context)
                try:
                    await connection.call("PING")
                except ReplyError as error:
                    if error.code != "NOAUTH":
                        raise
                    await self._authenticate(connection)
            yield connection
        finally:
            if connection is not None:
                connection.close()

    async def _follow_sentinels(self) -> None:
        """Leave a master at once when a Sentinel says that it is none any more: it may be cut off, and know nothing of it."""
        while True:
            sentinel = self._sentinels[0]
            with contextlib.suppress(
                OSError, ReplyError, StoreError, ValueError
            ):  # the last, for a message that is none
                async with self._sentinel(sentinel, self._tls()) as connection:
                    await connection.call("SUBSCRIBE", "+switch-master")
                    await self._leave_unless(await self._ask_sentinels(self._tls()))
                    await self._heed(connection)
            if sentinel == self._sentinels[0]:
                self._sentinels.append(self._sentinels.pop(0))
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def _heed(self, connection: Connection) -> None:
        while True:
            reply = await connection.hear()
            if isinstance(reply, list) and reply[0] == b"message":
                name, _, _, host, port = reply[2].decode().split(" ")
                if name == self.url.master:
                    await self._leave_unless((host, int(port)))

    async def _leave_unless(self, where: Where) -> None:
        for connection in tuple(self._open):
            if connection.where != where:
                self.give_up(connection)


def _info(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}
