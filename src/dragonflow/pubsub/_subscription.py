"""The receiving end that all buses share: a bounded queue that rather loses the oldest than grows or blocks the sender."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection

from dragonflow.pubsub.protocol import Message, Stats

BACKLOG = 10_000
"""Messages that may wait for one subscriber. What is lost beyond is found in the store."""


class Subscription:
    """What one subscriber has not taken yet; what it loses is counted in the bus's stats. To be used on one event loop."""

    def __init__(self, topics: Collection[str], stats: Stats) -> None:
        if isinstance(topics, str):
            raise TypeError(f"topics must be a collection of names, not the one string {topics!r}")
        self.topics = frozenset(topics)
        self._stats = stats
        self._waiting: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    def offer(self, message: Message) -> None:
        """Put a message in the queue, if it is of our topics."""
        if message.topic not in self.topics:
            return
        self._stats.received += 1
        if len(self._waiting) >= BACKLOG:
            self._waiting.popleft()
            self._stats.lost += 1
        self._waiting.append(message)
        self._wake.set()

    def end(self) -> None:
        """Let the subscriber's iteration end."""
        self._ended = True
        self._wake.set()

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Yield what is offered until ``end``."""
        while not self._ended:
            while self._waiting:
                yield self._waiting.popleft()
            self._wake.clear()
            if not self._waiting and not self._ended:
                await self._wake.wait()
