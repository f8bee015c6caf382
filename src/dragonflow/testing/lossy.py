"""A bus that loses messages, for the lab: ``lossy+URL#FILE`` is the bus of the URL, and FILE holds the share to lose (0 to 1).

The file is read anew when it changes, so a running lab can be told to lose, and not to. Each subscription loses by itself.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path

from dragonflow.pubsub.protocol import Message, PubSub, Stats


class LossyPubSub:
    """``bus``, but of what arrives a share is thrown away. No file means that nothing is."""

    def __init__(self, bus: PubSub, file: Path, chance: Callable[[], float] = random.random) -> None:
        self._bus, self._file, self._chance = bus, file, chance
        self._read: tuple[int, float] = (0, 0.0)
        self.stats: Stats = bus.stats
        self.thrown = 0

    async def publish(self, message: Message) -> None:
        """See ``PubSub``."""
        await self._bus.publish(message)

    async def subscribe(self, topics: Collection[str]) -> AsyncGenerator[Message, None]:
        """See ``PubSub``."""
        messages = self._bus.subscribe(topics)
        try:
            async for message in messages:
                if self._chance() < self._share():
                    self.thrown += 1
                else:
                    yield message
        finally:
            await messages.aclose()

    async def close(self) -> None:
        """See ``PubSub``."""
        await self._bus.close()

    def _share(self) -> float:
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read[0]:
                self._read = changed, float(self._file.read_text())
        except (OSError, ValueError):
            return 0.0
        return self._read[1]
