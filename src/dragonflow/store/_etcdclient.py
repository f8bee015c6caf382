"""A client of an etcd cluster: finds a server that answers, proves who it is, and asks until there is an answer or no patience.

One connection at a time serves all requests; a server that fails is left for the next one. Requests wait for no dead server: each
attempt has its time, and while there are streams, the server that they come from is asked for a sign of life (``_patrol``).
gRPC's own keep-alive can't do that: etcd closes connections that ping more often than every 5 s.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from dragonflow.store._etcderrors import Kind, Trouble, understand
from dragonflow.store._etcdrpc import grpc, rpc
from dragonflow.store._url import ServerUrl, read_password, read_pem
from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import Unavailable

LOG = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]
Send = Callable[["Connection", float, Metadata], Awaitable[Any]]
"""Sends a request over a connection, with so many seconds for it, and returns etcd's answer."""

PATIENCE = 7.0
"""Seconds that a request may take, over all servers and attempts: longer than a cluster needs to elect a leader."""

ATTEMPT = 3.0
"""Seconds for one attempt at a request that may be repeated."""

ONCE = 2.0
"""Seconds for a request that may not. etcd loses what was proposed to a leader that just died, and says so 7 s later."""

CONNECT = 2.0
"""Seconds to wait for a server's first answer before the next one is tried."""

PATROL, SILENCE = 2.0, 2.5
"""Seconds between two signs of life asked from a server that serves streams, and how long to wait for one."""

REFUSALS = 3
"""How often in a row a request is asked again with a new token."""

_BACKOFF = Backoff(first=0.05, most=1.0)
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),  # etcd has no limit on what it sends; readers ask for pages
    ("grpc.use_local_subchannel_pool", 1),  # a new connection is one, also to a server that has an old one
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Connection:
    """One connection to one server. It is closed as soon as it was left and nobody uses it any more."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.kv = rpc.KVStub(channel)
        self.lease = rpc.LeaseStub(channel)
        self.watch = rpc.WatchStub(channel)
        self.auth = rpc.AuthStub(channel)
        self.maintenance = rpc.MaintenanceStub(channel)
        self.users = 0
        self.streams = 0
        self.left = False
        self.patrol: asyncio.Task[None] | None = None

    @property
    def stands(self) -> bool:
        """Whether what is sent now goes out at once; what is sent over one that broke off might go out twice."""
        return not self.left and self.channel.get_state() is grpc.ChannelConnectivity.READY


class EtcdClient:
    """The servers of a URL, as one. For one event loop; connects with the first request."""

    def __init__(
        self,
        url: ServerUrl,
        *,
        patience: float = PATIENCE,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.patience = patience
        self._chance = chance
        self._clock = clock
        self._order = sorted(url.endpoints, key=lambda _: chance())  # clients spread over the servers
        self._failed: dict[str, tuple[float, str]] = {}  # endpoint → when and why it was left
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self._away_since: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self.closed = False

    # -- requests ------------------------------------------------------------------------------------------------------

    async def ask(self, send: Send, what: str, *, again: bool = True, says: Collection[Kind] = ()) -> Any:
        """The answer to a request. One that may not be sent ``again`` is repeated only if it surely was not carried out.

        :raises Unavailable: there is none; whether the request was carried out is not known.
        :raises Trouble: of a kind that the caller wants to be told, because it ``says`` something of the store.
        """
        deadline = self._deadline()
        failures = refusals = 0
        while True:
            connection: Connection | None = None
            metadata: Metadata = ()
            sent = False
            try:
                connection = await self.connection()
                metadata = await self.metadata(connection)
                left = max(deadline - self._clock(), 0.1)
                sent = True
                return await self.attempt(connection, send, metadata, min(ATTEMPT if again else ONCE, left), what)
            except Trouble as trouble:
                if trouble.kind in says:
                    raise
                if trouble.kind is Kind.TOKEN and refusals < REFUSALS:
                    refusals += 1
                    self.forget_token(metadata)
                    continue
                if trouble.kind not in (Kind.REFUSED, Kind.BUSY, Kind.UNKNOWN):
                    raise Unavailable(str(trouble)) from None
                if connection is not None and trouble.kind is not Kind.BUSY:
                    self.leave(connection, str(trouble))
                if trouble.kind is Kind.UNKNOWN and sent and not again:
                    raise Unavailable(f"{trouble}; whether it was carried out is not known") from None
                failures += 1
                delay = _BACKOFF.delay(failures, self._chance())
                if self._clock() + delay >= deadline:
                    raise Unavailable(str(trouble)) from None
                await asyncio.sleep(delay)

    def _deadline(self) -> float:
        """An outage uses up patience once, not with each request: while it lasts, each server is tried once."""
        now = self._clock()
        return now + self.patience if self._away_since is None else max(now, self._away_since + self.patience)

    async def attempt(self, connection: Connection, send: Send, metadata: Metadata, seconds: float, what: str) -> Any:
        """Send one request over a connection. :raises Trouble: it failed."""
        self.hold(connection)
        try:
            return await send(connection, seconds, metadata)
        except grpc.aio.AioRpcError as error:
            raise understand(error, connection.endpoint, self.url.user, what) from None
        except grpc.aio.UsageError as error:  # the channel was closed under it
            raise Trouble(Kind.UNKNOWN, f"etcd at {connection.endpoint}, {what}: {error}") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Trouble(Kind.UNKNOWN, f"etcd at {connection.endpoint}, {what}: the server fell silent") from None
        finally:
            self.release(connection)

    # -- who we are ----------------------------------------------------------------------------------------------------

    async def metadata(self, connection: Connection) -> Metadata:
        """What goes with each request: who asks, and that a server that sees no leader must say so instead of waiting."""
        if self.url.user is None:
            return _REQUIRE_LEADER
        async with self._authenticating:
            if self._token is None:
                self._token = await self._authenticate(connection, self.url.user)
            return (*_REQUIRE_LEADER, ("token", self._token)) if self._token else _REQUIRE_LEADER

    def forget_token(self, metadata: Metadata) -> None:
        """A server did not accept the token in this: the next request authenticates anew, unless another did so meanwhile."""
        if self._token == dict(metadata).get("token", self._token or ""):
            self._token = None

    async def _authenticate(self, connection: Connection, user: str) -> str:
        password = read_password(Path(self.url.options["password_file"]))

        async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
            request = rpc.AuthenticateRequest(name=user, password=password)
            return await connection.auth.Authenticate(request, timeout=seconds, metadata=metadata)

        try:
            answer = await self.attempt(connection, send, _REQUIRE_LEADER, ATTEMPT, "authentication")
        except Trouble as trouble:
            if "authentication is not enabled" not in str(trouble):
                raise
            LOG.warning("etcd at %s asks nobody for a password: anyone who reaches it may write", connection.endpoint)
            return ""
        token: str = answer.token
        return token

    # -- connections ---------------------------------------------------------------------------------------------------

    async def connection(self) -> Connection:
        """The connection that serves now; a new one, to the server that failed longest ago, if there is none.

        :raises Trouble: no server answers (``REFUSED``: nothing was sent).
        :raises Unavailable: the client was closed, or a file that the URL names can't be read.
        """
        async with self._connecting:
            if self.closed:
                raise Unavailable("the store was closed")
            if self._connection is not None and self._connection.stands:
                return self._connection
            if self._connection is not None:
                self.leave(self._connection, f"etcd at {self._connection.endpoint}: the connection was lost")
            reasons = []
            for endpoint in sorted(self._order, key=lambda each: self._failed.get(each, (0.0, ""))[0]):
                connection = self._open(endpoint)
                try:
                    await self.attempt(connection, _sign_of_life, _REQUIRE_LEADER, CONNECT, "connecting")
                except Trouble as trouble:
                    if trouble.kind in (Kind.REFUSED, Kind.UNKNOWN, Kind.BUSY):
                        reasons.append(str(trouble))
                        self.leave(connection, str(trouble))
                        continue
                except BaseException:
                    self.leave(connection, "given up")
                    raise
                self._arrived(connection)
                return connection
            text = "; ".join(reasons)
            if self._away_since is None:
                self._away_since = self._clock()
                LOG.warning("no server of etcd answers: %s", text)
            raise Trouble(Kind.REFUSED, text)

    def leave(self, connection: Connection, why: str) -> None:
        """Send no more requests there for now. What runs on it goes on."""
        if connection is self._connection:
            self._connection = None
        if not connection.left:
            connection.left = True
            self._failed[connection.endpoint] = (self._clock(), why)
            self._tidy(connection)

    def hold(self, connection: Connection, *, stream: bool = False) -> None:
        """Something begins to use the connection; a stream also wants to know whether the server lives."""
        connection.users += 1
        connection.streams += stream
        if stream and connection.patrol is None:
            connection.patrol = asyncio.create_task(self._patrol(connection))

    def release(self, connection: Connection, *, stream: bool = False) -> None:
        """The counterpart of ``hold``."""
        connection.users -= 1
        connection.streams -= stream
        if stream and not connection.streams and connection.patrol is not None:
            connection.patrol.cancel()
            connection.patrol = None
        self._tidy(connection)

    async def close(self) -> None:
        """Close all connections; what runs on them fails."""
        self.closed = True
        for connection in tuple(self._connections):
            self._close(connection)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _open(self, endpoint: str) -> Connection:
        options = self.url.options
        if self.url.scheme.endswith("+tls"):
            pem = {name: read_pem(name, Path(options[name])) for name in ("ca", "key", "cert") if name in options}
            credentials = grpc.ssl_channel_credentials(pem.get("ca"), pem.get("key"), pem.get("cert"))
            channel = grpc.aio.secure_channel(endpoint, credentials, options=_CHANNEL)
        else:
            channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL)
        connection = Connection(endpoint, channel)
        self._connections.add(connection)
        return connection

    def _arrived(self, connection: Connection) -> None:
        self._connection = connection
        if self._away_since is not None:
            LOG.info("etcd answers again at %s, after %.1f s", connection.endpoint, self._clock() - self._away_since)
            self._away_since = None
        elif self._failed:
            left, (_, why) = max(self._failed.items(), key=lambda each: each[1][0])
            LOG.info("going on with etcd at %s, for %s was left: %s", connection.endpoint, left, why)
        self._failed.pop(connection.endpoint, None)

    async def _patrol(self, connection: Connection) -> None:
        """Close the connection when its server gives no sign of life, so that streams don't wait for ever."""
        try:
            while True:
                await asyncio.sleep(PATROL)
                await self.attempt(connection, _sign_of_life, _REQUIRE_LEADER, SILENCE, "a sign of life")
        except Trouble as trouble:
            connection.patrol = None
            self.leave(connection, str(trouble))
            self._close(connection)

    def _tidy(self, connection: Connection) -> None:
        if connection.left and not connection.users:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            connection.left = True
            if connection.patrol is not None:
                connection.patrol.cancel()
                connection.patrol = None
            task = asyncio.create_task(connection.channel.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


_REQUIRE_LEADER: Metadata = (("hasleader", "true"),)


async def _sign_of_life(connection: Connection, seconds: float, metadata: Metadata) -> Any:
    return await connection.maintenance.Status(rpc.StatusRequest(), timeout=seconds, metadata=metadata)
