"""The bus for plain threads, on the hidden loop of ``store.blocking.Portal``; survives a fork as that does."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Collection, Iterator

from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub._subscription import BACKLOG
from dragonflow.pubsub.news import committed
from dragonflow.pubsub.protocol import Message, PubSub
from dragonflow.store.blocking import BlockingStore, PerProcess
from dragonflow.store.protocol import Txn


class BlockingPubSub:
    """``PubSub`` for threads, beside the store in which its endpoints stand. Close it before the store."""

    def __init__(self, url: str, store: BlockingStore) -> None:
        open_pubsub(url, store.underlying())  # refuses an unknown URL now, and opens nothing yet
        self._portal = store.portal
        self._bus: PerProcess[PubSub] = PerProcess(lambda: open_pubsub(url, store.underlying()))

    def publish(self, message: Message) -> None:
        """See ``PubSub``."""
        self._portal.run(lambda: self._bus.get().publish(message))

    def tell(self, txn: Txn, revision: int) -> None:
        """Publish that the transaction was committed at ``revision``, so that others look at once."""
        if txn.writes:
            self.publish(committed(txn, revision))

    def subscribe(self, topics: Collection[str]) -> BlockingSubscription:
        """Messages of the topics, for one thread to read."""
        return BlockingSubscription(self, topics)

    def close(self) -> None:
        """See ``PubSub``. A later call opens it again."""

        async def close() -> None:
            bus = self._bus.pop()
            if bus is not None:
                await bus.close()

        self._portal.run(close)


class BlockingSubscription(Iterator[Message]):
    """Messages for one thread: iterate, or ask with a time limit. Any thread may close it."""

    def __init__(self, bus: BlockingPubSub, topics: Collection[str]) -> None:
        self._messages: queue.Queue[Message | None] = queue.Queue()
        topics = tuple(topics)

        async def pump() -> None:
            try:
                async with contextlib.aclosing(bus._bus.get().subscribe(topics)) as messages:
                    async for message in messages:
                        if self._messages.qsize() >= BACKLOG:
                            self._messages.get_nowait()
                        self._messages.put(message)
            finally:
                self._messages.put(None)

        self._pump = bus._portal.start(pump)

    def __next__(self) -> Message:
        message = self._messages.get()
        if message is None:
            self._messages.put(None)  # for whoever asks again
            raise StopIteration
        return message

    def next(self, timeout: float) -> Message | None:
        """The next message; None if there is none within so many seconds, or none any more."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)
        return message

    def close(self) -> None:
        """End the subscription, and the iteration of a thread that waits in it."""
        self._pump.cancel()
        self._messages.put(None)
