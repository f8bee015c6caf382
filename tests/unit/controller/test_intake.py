import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from dragonflow.controller.intake import Intake
from dragonflow.controller.replica import Replica
from dragonflow.model import LogicalPort, LogicalSwitch, Row, encode, network_scope
from dragonflow.store.feed import Feed
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Delete, Key, Put, Txn

NET = LogicalSwitch(id="n1", key=1, network_type="geneve", segmentation_id=5, mtu=1442, revision=1)
PORT = LogicalPort(id="p1", key=2, network="n1", mac="fa:16:3e:00:00:01", revision=1)


class World:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.replica = Replica()
        self.news = asyncio.Event()
        self.intake = Intake(Feed(self.store), self.replica, self.news.set)

    async def put(self, row: Row, data: bytes | None = None) -> int:
        return await self.store.commit(Txn((Put(key(row), encode(row) if data is None else data),)))

    async def delete(self, row: Row) -> int:
        return await self.store.commit(Txn((Delete(key(row)),)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.news.clear()
                await self.news.wait()


def key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(world.intake.run())
    yield world
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await world.store.close()


async def test_followed_scopes_arrive_and_stay_true(world: World) -> None:
    await world.put(NET)
    await world.intake.follow([network_scope("n1")])
    await world.until(lambda: network_scope("n1") in world.intake.arrived)
    assert world.replica.get(LogicalSwitch, "n1") == NET
    revision = await world.put(PORT)
    await world.until(lambda: world.replica.get(LogicalPort, "p1") == PORT)
    assert world.replica.revision(LogicalPort, "p1") == revision
    await world.delete(PORT)
    await world.until(lambda: world.replica.get(LogicalPort, "p1") is None)


async def test_a_scope_no_longer_followed_leaves_nothing(world: World) -> None:
    await world.put(PORT)
    await world.intake.follow([network_scope("n1")])
    await world.until(lambda: world.replica.get(LogicalPort, "p1") is not None)
    await world.intake.follow([])
    assert world.replica.get(LogicalPort, "p1") is None
    assert not world.intake.arrived
    await world.intake.follow([network_scope("n1")])
    await world.until(lambda: world.replica.get(LogicalPort, "p1") is not None)


@pytest.mark.parametrize(
    "bad",
    [
        b"garbage",
        encode(PORT).replace(b"LogicalPort/1", b"LogicalPort/9"),
        encode(msgspec.structs.replace(PORT, network="elsewhere")),
    ],
    ids=["corrupt", "newer", "wrong scope"],
)
async def test_a_row_that_cannot_be_read_counts_as_absent_until_a_good_one_comes(world: World, bad: bytes) -> None:
    await world.put(PORT)
    await world.intake.follow([network_scope("n1")])
    await world.until(lambda: world.replica.get(LogicalPort, "p1") is not None)
    await world.put(PORT, bad)
    await world.until(lambda: world.replica.get(LogicalPort, "p1") is None)
    assert list(world.intake.refused) == [key(PORT)]
    await world.put(PORT)
    await world.until(lambda: world.replica.get(LogicalPort, "p1") == PORT)
    assert not world.intake.refused


async def test_a_bad_row_in_the_first_snapshot_keeps_nothing_else_out(world: World) -> None:
    await world.put(PORT, b"{}")
    await world.put(NET)
    await world.intake.follow([network_scope("n1")])
    await world.until(lambda: world.replica.get(LogicalSwitch, "n1") is not None)
    assert list(world.intake.refused) == [key(PORT)]
    await world.delete(PORT)
    await world.until(lambda: not world.intake.refused)
