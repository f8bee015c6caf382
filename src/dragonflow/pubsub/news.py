"""What ties the bus to the store: writers tell what they committed, readers let their store look at once."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing

from dragonflow.pubsub.protocol import CHANGES, Message, PubSub
from dragonflow.store.protocol import Put, Record, Store, Txn


def committed(txn: Txn, revision: int, topic: str = CHANGES) -> Message:
    """The news that ``txn`` was committed at ``revision``."""
    records = (Record(write.key, write.data if isinstance(write, Put) else None, revision) for write in txn.writes)
    return Message(topic, tuple(records))


async def commit(store: Store, bus: PubSub, txn: Txn) -> int:
    """``store.commit``, and tell it on ``CHANGES`` afterwards. Returns the revision; raises what the store raises."""
    revision = await store.commit(txn)
    if txn.writes:
        await bus.publish(committed(txn, revision))
    return revision


async def pass_hints(store: Store, bus: PubSub, topics: Collection[str] = (CHANGES,)) -> None:
    """Until cancelled, let each message wake the store's watches: within a millisecond instead of a poll's time."""
    async with aclosing(bus.subscribe(topics)) as messages:
        async for _ in messages:
            store.hint()
