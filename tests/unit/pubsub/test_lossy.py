"""The bus that loses what it is told to lose."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dragonflow.pubsub import UnknownPubSub, open_pubsub
from dragonflow.pubsub.memory import MemoryPubSub
from dragonflow.pubsub.protocol import Message
from dragonflow.store.memory import MemoryStore
from dragonflow.testing.lossy import LossyPubSub


async def arrived(bus: LossyPubSub, count: int) -> int:
    """How many of so many messages arrive; one more, on another topic, marks the end."""
    messages = bus.subscribe(["news", "end"])
    first = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    for _ in range(count):
        await bus.publish(Message("news", ()))
    end = asyncio.create_task(_end(bus))
    found = 0
    message = await first
    while message.topic == "news":
        found += 1
        message = await anext(messages)
    end.cancel()
    await messages.aclose()
    return found


async def _end(bus: LossyPubSub) -> None:
    while True:  # until one of them isn't lost
        await bus.publish(Message("end", ()))
        await asyncio.sleep(0.001)


async def test_it_loses_the_share_in_the_file_and_hears_when_that_changes(tmp_path: Path) -> None:
    share = tmp_path / "share"
    numbers = iter(range(1_000_000))
    bus = LossyPubSub(MemoryPubSub(), share, chance=lambda: next(numbers) % 10 / 10)
    assert await arrived(bus, 100) == 100
    share.write_text("0.3")
    assert await arrived(bus, 100) == 70
    assert bus.thrown >= 30
    share.write_text("nonsense")
    assert await arrived(bus, 100) == 100
    await bus.close()


async def test_it_is_found_by_url(tmp_path: Path) -> None:
    store = MemoryStore()
    bus = open_pubsub(f"lossy+zmq+ipc://{tmp_path}/bus#{tmp_path}/share", store)
    assert isinstance(bus, LossyPubSub)
    await bus.close()
    with pytest.raises(UnknownPubSub):
        open_pubsub(f"lossy+horse#{tmp_path}/share", store)
    await store.close()
