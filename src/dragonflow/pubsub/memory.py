"""A bus within one process, over all its threads and loops: for tests, and as the plainest statement of what a bus does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Collection

from dragonflow.pubsub._subscription import Subscription
from dragonflow.pubsub.protocol import Message, Stats


class Hub:
    """Where the buses of one name meet. ``relay`` may be replaced by a test: it says how often a message arrives, and when."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ends: dict[Subscription, asyncio.AbstractEventLoop] = {}
        self.relay: Callable[[Message, Callable[[Message], None]], None] = lambda message, deliver: deliver(message)

    def deliver(self, message: Message) -> None:
        """Hand a message to every subscriber on its own loop."""
        with self.lock:
            ends = tuple(self.ends.items())
        for end, loop in ends:
            with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody listens there any more
                loop.call_soon_threadsafe(end.offer, message)


class MemoryPubSub:
    """A bus to the hub; without one it has its own."""

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub if hub is not None else Hub()
        self._mine: set[Subscription] = set()
        self._closed = False
        self.stats = Stats()

    async def publish(self, message: Message) -> None:
        """See ``PubSub``."""
        if not self._closed:
            self.stats.sent += 1
            self.hub.relay(message, self.hub.deliver)

    async def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """See ``PubSub``. What was published before the first ``anext`` is not seen."""
        if self._closed:
            return
        end = Subscription(topics, self.stats)
        with self.hub.lock:
            self.hub.ends[end] = asyncio.get_running_loop()
        self._mine.add(end)
        try:
            async for message in end.messages():
                yield message
        finally:
            self._mine.discard(end)
            with self.hub.lock:
                del self.hub.ends[end]

    async def close(self) -> None:
        """See ``PubSub``."""
        self._closed = True
        for end in tuple(self._mine):
            end.end()


_named: dict[str, Hub] = {}
_named_lock = threading.Lock()


def named(name: str) -> Hub:
    """The process's hub of this name, made when first asked for."""
    with _named_lock:
        return _named.setdefault(name, Hub())
