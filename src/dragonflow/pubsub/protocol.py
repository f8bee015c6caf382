"""Publish/subscribe: the fast way for news that the store already holds.

A message may be lost, repeated, delayed or overtaken by another; it may not lie: it carries the key, the data and the store
revision of a record that was committed. Who gets it compares revisions; who misses it finds the same in the store. So nothing
depends on a message but speed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Protocol

import msgspec

from dragonflow.store.protocol import Record

PORT_STATUS = "port_status"
"""The one topic on which all chassis tell the status of all ports, whatever their tenant."""

CHANGES = "changes"
"""The topic on which writers tell what they committed to the DF DB."""


class Message(msgspec.Struct, frozen=True):
    """News on a topic: records that were committed."""

    topic: str
    records: tuple[Record, ...]


class Stats(msgspec.Struct):
    """What a bus of one process has counted since it was made."""

    sent: int = 0
    """Messages handed over to whatever carries them."""
    received: int = 0
    """Messages that came for a subscriber; one that several of this process subscribe to counts for each."""
    dropped: int = 0
    """Messages that could not be sent: nobody could be reached, the queue was full, or it was too big."""
    lost: int = 0
    """Messages that came, but that a subscriber of this process was too slow to take."""
    unreadable: int = 0
    """Messages that came and could not be understood."""


class PubSub(Protocol):
    """A message bus. Publishing never waits for subscribers and never fails because of them."""

    stats: Stats

    async def publish(self, message: Message) -> None:
        """Send to whoever listens now. A bus that is out of reach drops it and counts that."""
        ...

    def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """Yield messages of the topics for ever; close it with ``aclose()``. What can't be read is dropped and counted."""
        ...

    async def close(self) -> None:
        """Let go of sockets; subscriptions end."""
        ...
