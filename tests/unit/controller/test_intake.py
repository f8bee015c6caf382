import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from dragonflow.controller.intake import MOST, Intake
from dragonflow.controller.replica import Replica
from dragonflow.model import LogicalPort, LogicalSwitch, Row, encode, network_scope
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.store.protocol import Delete, Key, Put, Record, StoreError, Txn, Unavailable
from dragonflow.testing import founding

NET = LogicalSwitch(id="n1", key=1, network_type="geneve", segmentation_id=5, mtu=1442, revision=1)
PORT = LogicalPort(id="p1", key=2, network="n1", mac="fa:16:3e:00:00:01", revision=1)


class World:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.replica = Replica()
        self.news = asyncio.Event()
        self.busy = False
        self.rests: list[float] = []
        self.intake = Intake(self.store, self.replica, self._news, sleep=self._rest)

    async def _rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)

    def _news(self) -> None:
        """As a controller does, unless it is busy rendering."""
        if not self.busy:
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        self.intake.take()
        self.news.set()

    async def put(self, row: Row, data: bytes | None = None) -> int:
        return await self.store.commit(Txn((Put(key(row), encode(row) if data is None else data),)))

    async def delete(self, row: Row) -> int:
        return await self.store.commit(Txn((Delete(key(row)),)))

    @property
    def held(self) -> tuple[Row, ...]:
        """What the replica has of the networks."""
        return (*self.replica.all(LogicalSwitch), *self.replica.all(LogicalPort))

    async def come_to_rest(self) -> None:
        """Until the intake has taken in whatever it will take in."""
        for _ in range(50):
            await asyncio.sleep(0)

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
    await founding.found(world.store)
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


async def taken_in(world: World) -> None:
    """The scope of n1, whole."""
    await world.put(NET)
    await world.put(PORT)
    await world.intake.follow([network_scope("n1")])
    await world.until(lambda: world.intake.in_sync)
    assert world.held == (NET, PORT)


async def test_nothing_is_taken_from_a_df_db_that_nobody_says_is_whole(world: World) -> None:
    await world.store.commit(Txn((Delete(founding.KEY),)))
    await world.until(lambda: world.intake.not_whole)
    await world.put(NET)
    await world.intake.follow([network_scope("n1")])
    await world.come_to_rest()
    assert (world.intake.arrived, world.held) == (set(), ())
    await world.put(PORT)
    await founding.found(world.store)
    await world.until(lambda: world.intake.in_sync)
    assert world.held == (NET, PORT)


async def test_a_df_db_that_was_wiped_takes_nothing_away_and_whole_again_tells_the_difference(world: World) -> None:
    await taken_in(world)
    world.replica.take_changes()
    await world.store.commit(Txn((Delete(key(NET)), Delete(key(PORT)), Delete(founding.KEY))))
    await world.until(lambda: world.intake.not_whole)
    assert not world.intake.in_sync
    await world.put(msgspec.structs.replace(PORT, name="not yet"))
    await world.come_to_rest()
    assert world.held == (NET, PORT)
    changed = msgspec.structs.replace(PORT, name="changed")
    await world.put(NET)
    await world.put(changed)
    await founding.found(world.store)
    await world.until(lambda: world.intake.in_sync)
    assert [(change.old, change.new) for change in world.replica.take_changes()] == [(PORT, changed)]


class Ahead(MemoryStore):
    """What is there already, before the watch tells: these answers to the first questions, then as it is."""

    def __init__(self, memory: Memory, *answers: Record | StoreError | None) -> None:
        super().__init__(memory)
        self.answers = list(answers)

    async def get(self, key: Key) -> Record | None:
        if not self.answers:
            return await super().get(key)
        answer = self.answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer


async def test_a_deletion_that_is_told_before_that_of_the_regions_row_is_not_believed(world: World) -> None:
    await taken_in(world)
    world.intake._store = Ahead(world.store.memory, None)
    await world.delete(PORT)
    await world.until(lambda: world.intake.not_whole)
    assert world.held == (NET, PORT)


async def test_a_deletion_waits_until_it_is_known_whether_the_df_db_stands(world: World) -> None:
    await taken_in(world)
    world.intake._store = ahead = Ahead(world.store.memory, Unavailable("hangs"))
    await world.delete(PORT)
    await world.until(lambda: world.held == (NET,))
    assert ahead.answers == []
    assert world.intake.outage is None


async def test_another_df_db_is_read_anew_whatever_its_revisions(world: World) -> None:
    """Its row of the port is older than the one that was known, and its region's row another; no change was told."""
    await taken_in(world)
    other, memory = msgspec.structs.replace(PORT, name="other"), world.store.memory
    with memory.lock:
        rows = {founding.KEY: encode(founding.REGION), key(NET): encode(NET), key(other): encode(other)}
        memory.log = {each: Record(each, data, 1) for each, data in rows.items()}
        memory.revision += 10
        memory.compacted = memory.revision
        memory.wake()
    await world.until(lambda: world.held == (NET, other))
    assert world.intake.in_sync


async def test_nothing_is_taken_in_while_the_controller_renders_and_then_no_more_than_renders_soon(
    world: World,
) -> None:
    """What a commit wrote is not taken in by halves; what changes twice meanwhile is taken in once."""
    await taken_in(world)
    world.busy = True
    await world.put(msgspec.structs.replace(PORT, name="first"))
    await world.come_to_rest()
    ports = [msgspec.structs.replace(PORT, id=f"q{number}", key=10 + number) for number in range(3 * MOST)]
    await world.store.commit(Txn(tuple(Put(key(port), encode(port)) for port in ports[: 2 * MOST])))
    for port in (*ports[2 * MOST :], msgspec.structs.replace(PORT, name="second")):
        await world.put(msgspec.structs.replace(port, name="old"))
        await world.put(port)
    assert world.held == (NET, PORT)
    assert not world.intake.in_sync
    taken = []
    while not world.intake.in_sync:
        world.intake.take()
        taken.append((len(world.held), world.replica.all(LogicalPort)[0].name))
        await world.come_to_rest()
    assert taken == [(2, "first"), (2 + 2 * MOST, "first"), (2 + 3 * MOST, "first"), (2 + 3 * MOST, "second")]


async def test_changes_that_come_without_end_are_fetched_at_longer_and_longer_intervals(world: World) -> None:
    await taken_in(world)
    for number in range(8):
        name = f"name {number}"
        await world.put(msgspec.structs.replace(PORT, name=name))
        await world.until(lambda name=name: world.held[-1].name == name)  # type: ignore[misc]
    assert world.rests == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.032, 0.032]


async def test_it_waits_to_be_taken_also_where_nothing_of_the_news_is_to_be_believed(world: World) -> None:
    await taken_in(world)
    world.busy = True
    assert not world.intake.waiting
    await world.store.commit(Txn((Delete(founding.KEY),)))
    await world.come_to_rest()
    assert world.intake.waiting
    world.intake.take()
    assert not world.intake.waiting


async def test_what_waits_goes_with_its_scope_and_with_its_df_db(world: World) -> None:
    world.busy = True
    await world.put(NET)
    await world.intake.follow([NET.scope])
    await world.come_to_rest()
    await world.intake.follow([])
    await world.intake.follow([NET.scope])
    world.intake.take()
    assert not world.intake.arrived
    await world.come_to_rest()
    await world.store.commit(Txn((Delete(founding.KEY),)))
    await world.come_to_rest()
    world.intake.take()
    assert world.intake.not_whole
    assert world.held == ()
