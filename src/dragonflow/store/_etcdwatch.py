"""The watch of an etcd store: one stream for all its scopes, and on it one etcd watcher for each scope.

A watcher tells its scope in order and without a gap; of where another stands it says nothing (etcd 3.4's progress notices, which
seem to, may run ahead of what was not yet told: etcd issue 15220). So each scope has its own position, from which it is
taken up again when the stream breaks off. To resume from long ago, etcd reads through everything that was written since, whosever
it is; a scope that is further behind than ``REPLAY`` is cheaper to read anew, and ``Compacted`` says so.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from dragonflow.store._common import Scopes
from dragonflow.store._etcdclient import REFUSALS, Connection, EtcdClient, Metadata
from dragonflow.store._etcderrors import Kind, Trouble, explain, understand
from dragonflow.store._etcdkeys import Keys
from dragonflow.store._etcdrpc import grpc, rpc
from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import Changes, Compacted, Key, Record, Unavailable

LOG = logging.getLogger(__name__)

REPLAY = 5_000
"""Revisions that etcd may have to read through for a scope that is resumed; about 10 ms of its time."""

AHEAD = 1_000
"""Responses taken from the server before the reader asks for them. Beyond that the server keeps them."""

FLAPS = 5
"""Streams in a row that break off before their first answer, until the reader is told."""

_BACKOFF = Backoff(first=0.05, most=1.0)


class _Scope:
    """One watched scope: up to which revision it was told, and its watcher on the present stream."""

    __slots__ = ("after", "name", "watcher")

    def __init__(self, name: str, after: int) -> None:
        self.name = name
        self.after = after
        self.watcher = 0


class EtcdWatch:
    """See ``Watch``. Work begins, and goes on after an outage, when the reader waits."""

    def __init__(
        self,
        after: Mapping[str, int],
        client: EtcdClient,
        keys: Keys,
        record: Callable[[Any, bytes | None], Record | None],
        living: set[EtcdWatch],
    ) -> None:
        self._client = client
        self._keys = keys
        self._record = record
        self._living = living
        self._scopes: dict[str, _Scope] = {}
        self._ready: deque[tuple[_Scope, list[Record]]] = deque()  # told by the server, and not yet to the reader
        self._lost: dict[_Scope, str] = {}  # scopes to read anew, and why
        self._stream: _Stream | None = None
        self._stir = asyncio.Event()  # there is something for the step to do, or for the reader to have
        self._step: asyncio.Task[None] | None = None
        self._breaks = 0  # streams in a row that broke off before an answer
        self._denials = 0
        self._metadata: Metadata = ()
        self._cluster: int | None = None  # whose stream the last was
        self._closed = False
        self.add(after)

    def add(self, after: Mapping[str, int]) -> None:
        """See ``Watch``."""
        Scopes(after)
        for name, revision in after.items():
            self._forget(name)
            self._scopes[name] = scope = _Scope(name, revision)
            if self._stream is not None:
                self._create(self._stream, scope)
        self._stir.set()

    def drop(self, scopes: Collection[str]) -> None:
        """See ``Watch``."""
        for name in scopes:
            self._forget(name)
        self._stir.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        while not self._closed:
            self._living.add(self)
            if (changes := self._collect()) is not None:
                return changes
            self._raise_lost()
            if self._step is None:
                self._step = asyncio.create_task(self._advance())
            await asyncio.wait({self._step})  # a reader that is cancelled here finds the step again next time
            step, self._step = self._step, None
            if not step.cancelled():
                step.result()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """See ``Watch``."""
        self.end()
        if self._step is not None:
            self._step.cancel()
            await asyncio.wait({self._step})
        await self._part()

    def end(self) -> None:
        """The store is being closed: the reader is told the end."""
        self._closed = True
        self._living.discard(self)
        self._stir.set()

    # -- to the reader -------------------------------------------------------------------------------------------------

    def _collect(self) -> Changes | None:
        """All that was told of scopes that are still wanted as they were, in order of revision."""
        found: dict[tuple[Key, int], Record] = {}
        while self._ready:
            scope, records = self._ready.popleft()
            if self._scopes.get(scope.name) is scope:
                found.update(((record.key, record.revision), record) for record in records)
        if self._stream is not None:
            self._stream.go_on()
        if not found:
            return None
        ordered = sorted(found.values(), key=lambda record: record.revision)  # stable: a commit keeps its order
        return Changes(ordered[-1].revision, tuple(ordered))

    def _raise_lost(self) -> None:
        lost, self._lost = self._lost, {}
        gone = {scope.name: why for scope, why in lost.items() if self._scopes.get(scope.name) is scope}
        for name in gone:
            del self._scopes[name]
        if gone:
            raise Compacted("; ".join(sorted(set(gone.values()))), gone.keys())

    # -- to the server -------------------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Do what is to be done on the stream, then wait for the next."""
        try:
            if self._stream is None:
                await self._open()
            stream = self._stream
            assert stream is not None
            self._stir.clear()
            while stream.due:
                await stream.send(stream.due.popleft())
            stream.raise_end()
            if not self._ready and not self._lost and not self._closed:
                await self._stir.wait()
        except Trouble as trouble:
            await self._part()
            await self._bear(trouble)

    async def _bear(self, trouble: Trouble) -> None:
        """Wait a little before the next stream. :raises Unavailable: that would not help."""
        if trouble.kind is Kind.TOKEN and self._denials < REFUSALS:
            self._denials += 1
            self._client.forget_token(self._metadata)
            return
        self._breaks += 1
        if trouble.kind in (Kind.FINAL, Kind.TOKEN) or self._breaks >= FLAPS:
            self._breaks = self._denials = 0
            raise Unavailable(str(trouble))
        await asyncio.sleep(_BACKOFF.delay(self._breaks, random.random()))

    async def _open(self) -> None:
        """A new stream, on which each scope goes on from where it is; those that are too far behind are lost."""
        known = set(self._scopes.values())  # others may be added meanwhile, with a younger revision than we ask for
        header = await self._present()
        connection = await self._client.connection()
        self._metadata = await self._client.metadata(connection)
        self._stream = _Stream(
            self._client, connection, self._metadata, newest=header.revision, take=self._take, stir=self._stir
        )
        another = self._cluster not in (None, header.cluster_id)
        self._cluster = header.cluster_id
        for scope in self._scopes.values():
            if scope in known and (another or scope.after > header.revision):
                self._lost[scope] = (
                    f"etcd went back in time, or is another cluster: it is at revision {header.revision}"
                )
            else:
                self._create(self._stream, scope)

    async def _present(self) -> Any:
        """The store's revision and identity; they were answered by a server that has a quorum behind it."""

        async def send(connection: Connection, seconds: float, metadata: Metadata) -> Any:
            request = rpc.RangeRequest(key=self._keys.root, keys_only=True)
            return await connection.kv.Range(request, timeout=seconds, metadata=metadata)

        return (await self._client.ask(send, "asking for the revision")).header

    def _create(self, stream: _Stream, scope: _Scope) -> None:
        newest = stream.newest
        if scope.after < newest - REPLAY:
            self._lost[scope] = f"revision {scope.after} is too far behind {newest} to replay what was written since"
            return
        # A watcher from the revision after the last told would miss a deletion in it that was compacted just then (etcd issue
        # 18089), so it begins with the last told; unless that is the newest, for only then it tells without a delay.
        scope.watcher = stream.create(scope, scope.after + (scope.after >= newest), *self._keys.range(scope.name))

    def _forget(self, name: str) -> None:
        scope = self._scopes.pop(name, None)
        if scope is not None and self._stream is not None and scope.watcher:
            self._stream.cancel(scope)

    async def _part(self) -> None:
        stream, self._stream = self._stream, None
        for scope in self._scopes.values():
            scope.watcher = 0
        if stream is not None:
            await stream.close()

    # -- from the server -----------------------------------------------------------------------------------------------

    def _take(self, scope: _Scope, response: Any) -> None:
        """File what the server said of a scope that is still wanted. :raises Trouble: it won't tell of it."""
        if response.compact_revision:
            self._lost[scope] = f"etcd keeps what was written after revision {response.compact_revision}"
        elif response.canceled:
            self._refused(scope, response.cancel_reason)
        self._breaks = self._denials = 0
        records = []
        for event in response.events:
            kv = event.kv
            if kv.mod_revision > scope.after:
                record = self._record(kv, kv.value if event.type == rpc.Event.PUT else None)
                if record is not None:
                    records.append(record)
        if response.events:
            scope.after = max(scope.after, response.events[-1].kv.mod_revision)
        if records:
            self._ready.append((scope, records))

    def _refused(self, scope: _Scope, reason: str) -> None:
        user = self._client.url.user
        endpoint = self._stream.connection.endpoint if self._stream is not None else "?"
        raise explain(grpc.StatusCode.UNAVAILABLE, reason, endpoint, user, f"watching {scope.name}")


class _Stream:
    """One call of etcd's ``Watch``, and a task that reads from it. ``newest`` is the highest revision known of the store."""

    def __init__(
        self,
        client: EtcdClient,
        connection: Connection,
        metadata: Metadata,
        *,
        newest: int,
        take: Callable[[_Scope, Any], None],
        stir: asyncio.Event,
    ) -> None:
        self.connection = connection
        self.newest = newest
        self.due: deque[Any] = deque()
        self._client = client
        self._take = take
        self._stir = stir
        self._scopes: dict[int, _Scope] = {}  # by watcher
        self._creating: deque[int] = deque()  # etcd answers in the order of the requests, and a refusal has no number
        self._numbers = 0
        self._room = asyncio.Event()
        self._taken = 0
        self._end: Trouble | None = None
        try:
            self._call = connection.watch.Watch(metadata=metadata)
        except grpc.aio.UsageError:
            raise Trouble(Kind.UNKNOWN, f"the connection to etcd at {connection.endpoint} was just closed") from None
        client.hold(connection, stream=True)
        self._reading = asyncio.create_task(self._read())

    def create(self, scope: _Scope, start: int, first: bytes, end: bytes) -> int:
        """Have a watcher made, due with the next step; returns its number."""
        self._numbers += 1
        self._scopes[self._numbers] = scope
        self._creating.append(self._numbers)
        request = rpc.WatchCreateRequest(key=first, range_end=end, start_revision=max(start, 1), watch_id=self._numbers)
        self.due.append(rpc.WatchRequest(create_request=request))
        return self._numbers

    def cancel(self, scope: _Scope) -> None:
        """Have a watcher ended, due with the next step; what it tells until then is not heard."""
        del self._scopes[scope.watcher]
        self.due.append(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=scope.watcher)))

    def go_on(self) -> None:
        """The reader took what there was."""
        self._taken = 0
        self._room.set()

    async def send(self, request: Any) -> None:
        """Write one request. :raises Trouble: the stream broke off."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._broken(error) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            await asyncio.wait({self._reading})
            self.raise_end()
            raise

    def raise_end(self) -> None:
        """:raises Trouble: the stream has ended; the text says why."""
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        """End it."""
        self._reading.cancel()
        self._call.cancel()
        await asyncio.wait({self._reading})
        self._client.release(self.connection, stream=True)

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self.newest = max(self.newest, response.header.revision)
                number = self._creating.popleft() if response.created else response.watch_id
                scope = self._scopes.get(number)
                if scope is None:
                    continue  # the watcher was cancelled meanwhile
                self._take(scope, response)
                self._stir.set()
                self._taken += 1
                if self._taken >= AHEAD:
                    self._room.clear()
                    await self._room.wait()
            self._end = Trouble(Kind.UNKNOWN, f"etcd at {self.connection.endpoint} ended the watch")
        except grpc.aio.AioRpcError as error:
            self._end = self._broken(error)
        except Trouble as trouble:
            self._end = trouble
        except asyncio.CancelledError:
            self._end = Trouble(Kind.UNKNOWN, f"etcd at {self.connection.endpoint} fell silent")
        finally:
            self._stir.set()

    def _broken(self, error: grpc.aio.AioRpcError) -> Trouble:
        return understand(error, self.connection.endpoint, self._client.url.user, "watching")
