"""A connection that is subscribed to a changing set of channels, for ever: for the store's wake-ups and for the bus.

Redis forgets a message that nobody was there to hear. So whoever listens is told whenever it may have missed some: on each
channel that is heard from now on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Set

from dragonflow.store._rediserrors import ReplyError
from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import Unavailable
from dragonflow.store.redis_client import Connection, RedisServer

LOG = logging.getLogger(__name__)

_STEADY = 5.0  # seconds that a connection has to stand to count as good
_TURN = 500  # messages taken before others on the loop have their turn


class Listener:
    """Calls ``heard(channel, data)`` for each message, and ``began(channel)`` when a channel begins to be heard (again).

    ``lost`` is called when the connection is lost. Channels that end in a star are patterns: all that begin so. Nothing runs
    before something is wanted. To be used on one event loop.
    """

    def __init__(
        self,
        server: RedisServer,
        heard: Callable[[bytes, bytes], None],
        began: Callable[[bytes], None],
        lost: Callable[[Unavailable], None] = lambda _: None,
    ) -> None:
        self._server = server
        self._heard, self._began, self._lost = heard, began, lost
        self._wanted: Set[bytes] = frozenset()
        self._asked: Set[bytes] = frozenset()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether messages arrive now."""
        return self._connection is not None

    def want(self, channels: Set[bytes]) -> None:
        """From now on listen to exactly these; to none without a connection."""
        self._wanted = frozenset(channels)
        if not channels:
            task, self._task, self._connection = self._task, None, None
            if task is not None:
                task.cancel()
        elif self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._connection is not None:
            self._ask(self._connection)

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff, failures = Backoff(), 0
        while True:
            began = time.monotonic()
            try:
                connection = await self._server.connect()
                with self._server.until_lost(connection):
                    await self._listen(connection)
            except Unavailable as error:
                failures = 1 if time.monotonic() > began + _STEADY else failures + 1
                LOG.debug("not listening: %s", error)
                self._lost(error)
            await asyncio.sleep(backoff.delay(failures, random.random()))

    def _ask(self, connection: Connection) -> None:
        """Subscribe to what is wanted and wasn't asked for yet, and the reverse."""
        for command, channels in (
            ("SUBSCRIBE", self._wanted - self._asked),
            ("UNSUBSCRIBE", self._asked - self._wanted),
        ):
            plain = [each for each in channels if not each.endswith(b"*")]
            patterns = [_escaped(each[:-1]) + b"*" for each in channels if each.endswith(b"*")]
            if plain:
                connection.send(command, *plain)
            if patterns:
                connection.send(f"P{command}", *patterns)
        self._asked = self._wanted

    async def _listen(self, connection: Connection) -> None:
        """:raises OSError: the connection was lost. :raises ReplyError: we may not listen."""
        self._connection, self._asked = connection, frozenset()
        try:
            self._ask(connection)
            await self._take_all(connection)
        finally:
            if self._connection is connection:
                self._connection = None

    async def _take_all(self, connection: Connection) -> None:
        taken = 0
        while True:
            reply = await connection.hear()
            self._take(reply)
            taken += 1
            if taken % _TURN == 0:
                await asyncio.sleep(0)

    def _take(self, reply: object) -> None:
        match reply:
            case ReplyError():
                raise reply
            case [b"message", bytes(channel), bytes(data)] | [b"pmessage", _, bytes(channel), bytes(data)]:
                self._heard(channel, data)
            case [b"subscribe", bytes(channel), _]:
                self._began(channel)
            case [b"psubscribe", bytes(pattern), _]:
                self._began(_plain(pattern))
            case _:
                pass  # an answer to PING, or to UNSUBSCRIBE


_SPECIAL = b"*?[]^-\\"


def _escaped(text: bytes) -> bytes:
    """Take the meaning in patterns from each character."""
    return b"".join(b"\\" + bytes((each,)) if each in _SPECIAL else bytes((each,)) for each in text)


def _plain(pattern: bytes) -> bytes:
    """The reverse, with the star at the end as it is."""
    plain, escaped = bytearray(), False
    for each in pattern:
        if each == ord("\\") and not escaped:
            escaped = True
        else:
            plain.append(each)
            escaped = False
    return bytes(plain)
