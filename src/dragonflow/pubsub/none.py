"""No bus: the store's own watch brings all news."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection

from dragonflow.pubsub._subscription import Subscription
from dragonflow.pubsub.protocol import Message, Stats


class NoPubSub:
    """Publishing does nothing, and nothing ever arrives."""

    def __init__(self) -> None:
        self._mine: set[Subscription] = set()
        self._closed = False
        self.stats = Stats()

    async def publish(self, message: Message) -> None:
        """See ``PubSub``."""

    async def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """See ``PubSub``."""
        if self._closed:
            return
        end = Subscription(topics, self.stats)
        self._mine.add(end)
        try:
            async for message in end.messages():
                yield message
        finally:
            self._mine.discard(end)

    async def close(self) -> None:
        """See ``PubSub``."""
        self._closed = True
        for end in tuple(self._mine):
            end.end()
