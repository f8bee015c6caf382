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


class PubSub(Protocol):
    """A message bus. Publishing never waits for subscribers and never fails because of them."""

    async def publish(self, message: Message) -> None:
        """Send to whoever listens now. A bus that is out of reach drops it and counts that."""
        ...

    def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """Yield messages of the topics for ever; close it with ``aclose()``. What can't be read is dropped and counted."""
        ...

    async def close(self) -> None:
        """Let go of sockets; subscriptions end."""
        ...
