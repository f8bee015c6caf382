"""A bus over Redis: PUBLISH on one channel a topic. For those who keep their DF DB there, and for those who don't.

Publishing puts a message in a bounded queue and returns; a task sends what is there. While Redis is away, messages are dropped
and counted, for they would be stale when it is back. Redis drops what a slow subscriber doesn't take (its
``client-output-buffer-limit pubsub``) by closing the connection, so after each new beginning the store is asked for news.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection

from dragonflow.pubsub import wire
from dragonflow.pubsub._subscription import Subscription
from dragonflow.pubsub.protocol import Message, Stats
from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import Store, Unavailable
from dragonflow.store.redis_client import TIMEOUT, Connection, RedisServer, RedisUrl, ReplyError
from dragonflow.store.redis_listener import Listener

LOG = logging.getLogger(__name__)

QUEUE = 10_000
"""Messages that may wait to be sent. The youngest beyond are dropped."""

_BATCH = 200  # messages sent before their answers are read
_PARTING = 0.5  # seconds that a closing bus gives its last messages
_LOG_EVERY = 60.0


class RedisPubSub:
    """The bus of one process. Connections are opened by the first use, so in the process and on the loop that uses them.

    The store is hinted whenever messages may have been missed.
    """

    def __init__(self, store: Store, url: RedisUrl) -> None:
        self._store = store
        self._server = RedisServer(url, "dragonflow-bus")
        self._root = f"{url.prefix}:bus:".encode()
        self._listener = Listener(self._server, self._heard, self._began)
        self._ends: set[Subscription] = set()
        self._queue: deque[list[bytes]] = deque()
        self._filled = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._away = False
        self._closed = False
        self._log_again = 0.0
        self.stats = Stats()

    async def publish(self, message: Message) -> None:
        """See ``PubSub``."""
        if self._closed:
            return
        topic, body = wire.pack(message)
        if self._away or len(body) > wire.MAX_SIZE or len(self._queue) >= QUEUE:
            self.stats.dropped += 1
            return
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        self._queue.append([self._root + topic[:-1], body])
        self._filled.set()

    async def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """See ``PubSub``."""
        if self._closed:
            return
        end = Subscription(topics, self.stats)
        self._ends.add(end)
        self._listen()
        try:
            async for message in end.messages():
                yield message
        finally:
            self._ends.discard(end)
            self._listen()

    async def close(self) -> None:
        """See ``PubSub``. What was published before is sent, if Redis takes it at once."""
        self._closed = True
        for end in tuple(self._ends):
            end.end()
        if self._sending is not None:
            self._filled.set()
            _, late = await asyncio.wait({self._sending}, timeout=0 if self._away else _PARTING)
            for task in late:
                task.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await self._listener.close()
        await self._server.close()

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Send what is in the queue, until closed."""
        backoff, failures = Backoff(), 0
        while self._queue or not self._closed:
            try:
                connection = await self._server.connect()
                if failures:
                    LOG.info("messages can be sent over Redis at %s again", self._server.where)
                self._away, failures = False, 0
                with self._server.until_lost(connection):
                    await self._empty(connection)
            except Unavailable as error:
                failures += 1
                if failures == 1:
                    LOG.warning("can't publish, others will have news later: %s", error)
                self._away = True
                self.stats.dropped += len(self._queue)
                self._queue.clear()
                await asyncio.sleep(backoff.delay(failures, random.random()))

    async def _empty(self, connection: Connection) -> None:
        """Send until closed. :raises OSError, ReplyError: what was not acknowledged counts as dropped."""
        while self._queue or not self._closed:
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
                continue
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            sent = 0
            try:
                async with asyncio.timeout(TIMEOUT):
                    for channel, body in batch:
                        connection.send("PUBLISH", channel, body)
                    for _ in batch:
                        if isinstance(reply := await connection.receive(), ReplyError):
                            raise reply
                        sent += 1
            finally:
                self.stats.sent += sent
                self.stats.dropped += len(batch) - sent

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if not self._closed:
            self._listener.want({self._root + topic.encode() for end in self._ends for topic in end.topics})

    def _heard(self, channel: bytes, body: bytes) -> None:
        try:
            message = wire.unpack([channel[len(self._root) :] + b"\0", body])
        except wire.Unreadable as error:
            self.stats.unreadable += 1
            if time.monotonic() >= self._log_again:  # a stranger may send anything as fast as he likes
                self._log_again = time.monotonic() + _LOG_EVERY
                LOG.warning("message dropped: %s (%d so far)", error, self.stats.unreadable)
            return
        for end in self._ends:
            end.offer(message)

    def _began(self, _channel: bytes) -> None:
        self._store.hint()
