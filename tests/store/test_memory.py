from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from dragonflow.store.conformance import Ground, StoreConformance
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Store


class MemoryGround(Ground):
    def __init__(self) -> None:
        self.memory = Memory()

    async def client(self) -> Store:
        return MemoryStore(self.memory)

    @contextlib.asynccontextmanager
    async def compact(self) -> AsyncIterator[None]:
        MemoryStore(self.memory).compact()
        yield

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        MemoryStore(self.memory).hold("pulled the plug")
        yield
        MemoryStore(self.memory).hold(None)


class TestMemory(StoreConformance):
    @pytest.fixture
    async def ground(self) -> Ground:
        return MemoryGround()
