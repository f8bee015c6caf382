"""Who goes first and what waits for what, with a switch that takes as long as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest
from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.controller import turns
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Replica
from dragonflow.controller.turns import Turn, Turns
from dragonflow.model import LogicalPort, OvsPort, Row, encode
from dragonflow.pipeline import Fact
from dragonflow.pipeline.facts import Owner
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Key, Put, Txn
from dragonflow.switch.bundle import Synced
from dragonflow.testing import founding, worlds

PORT, OTHER = worlds.port("a", 11), worlds.port("b", 12, "there")
MAKING, MADE = worlds.tap("a", None), worlds.tap("a", 5)


class SlowSwitch:
    """Has what is wanted when a ``sync`` ends, which the test may hold: so nothing may be wanted meanwhile."""

    connected = ovsdb_in_sync = True
    degraded: Mapping[Owner, str] = {}

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.begun = 0
        self.has: list[dict[Owner, Sequence[Fact]]] = []
        self._wanted: dict[Owner, Sequence[Fact]] = {}

    def want(self, owner: Owner, facts: Sequence[Fact]) -> None:
        self._wanted[owner] = facts

    def ask_for_ports(self) -> None:
        pass

    async def sync(self) -> Synced:
        self.begun += 1
        await self.free.wait()
        self.has.append(dict(self._wanted))
        return Synced(1, {})

    def knows(self, owner: Owner) -> bool:
        """Whether it has flows of this owner."""
        return bool(self.has and self.has[-1].get(owner))


CLASSIFIED = Owner("classification", "LogicalPort", "a")


class World:
    """Is the audience."""

    def __init__(self) -> None:
        self.store, self.replica, self.switch = MemoryStore(), Replica(), SlowSwitch()
        self.judging = False
        self.told_of: list[Turn] = []
        self.turns = Turns(
            *(self.store, self.replica, Engine(APPS, self.replica, worlds.ME), self.switch),  # type: ignore[arg-type]
            me=worlds.ME,
            news=asyncio.Event(),
            audience=self,
        )

    def complete(self) -> None:
        pass

    def unsettled(self) -> None:
        pass

    def unconfirmed(self) -> None:
        pass

    def confirmed(self, turn: Turn) -> None:
        self.told_of.append(turn)

    async def put(self, *rows: Row) -> None:
        await self.store.commit(Txn(tuple(Put(Key(it.scope, type(it).__name__, it.id), encode(it)) for it in rows)))

    def told(self, port: OvsPort) -> None:
        self.turns.ports_changed((port,), ())

    async def rename(self, name: str) -> None:
        """Change a row that has nothing to do with this host's ports."""
        await self.put(replace(OTHER, name=name))

    @property
    def known_as(self) -> str:
        """The name by which it is known."""
        row = self.replica.get(LogicalPort, OTHER.id)
        assert row is not None
        return row.name

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def at_rest(self) -> None:
        """Until nothing has been sent for long enough."""
        begun = -1
        while begun != self.switch.begun:
            begun = self.switch.begun
            await asyncio.sleep(0.1)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """At rest, with a port that is bound here and not plugged yet, and one elsewhere."""
    it = World()
    await founding.found(it.store)
    await it.put(worlds.network(), PORT, OTHER, *worlds.bindings(PORT))
    running = [asyncio.create_task(part) for part in (it.turns.intake.run(), it.turns.run())]
    await it.until(lambda: it.turns.confirmed and it.replica.get(LogicalPort, OTHER.id) is not None)
    await it.at_rest()
    try:
        yield it
    finally:
        for task in running:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for any machine; without it, it is over soon."""
    monkeypatch.setattr(turns, "_LOCAL_FIRST", 2.0)


@pytest.mark.usefixtures("patience")
async def test_a_plug_is_one_turn_which_waits_for_the_openflow_port(world: World) -> None:
    before = world.switch.begun
    world.told(MAKING)
    await asyncio.sleep(0.02)
    assert world.switch.begun == before
    world.told(MADE)
    await world.until(lambda: world.switch.knows(CLASSIFIED))
    assert world.switch.begun == before + 1
    assert world.told_of[-1].said["a"].status == "ACTIVE"


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("port", [MADE, replace(MAKING, error="no such device")])
async def test_what_is_made_or_can_not_be_is_not_waited_for(world: World, port: OvsPort) -> None:
    began, told = time.monotonic(), len(world.told_of)
    world.told(port)
    await world.until(lambda: len(world.told_of) > told)
    assert time.monotonic() - began < 1.5


async def test_rows_do_not_wait_for_ever_for_an_interface_that_is_never_made(world: World) -> None:
    world.told(MAKING)
    for name in ("x", "y", "z"):
        await world.rename(name)
        await world.until(lambda: world.known_as == name)  # noqa: B023 - it is done before the next


@pytest.mark.usefixtures("patience")
async def test_rows_wait_while_a_port_is_judged(world: World) -> None:
    world.judging = True
    await world.rename("x")
    await asyncio.sleep(0.02)
    assert world.known_as == OTHER.name
    world.judging = False
    world.turns.judged()
    await world.until(lambda: world.known_as == "x")


async def test_rows_do_not_wait_for_ever_for_a_verdict(world: World) -> None:
    world.judging = True
    await world.rename("x")
    await world.until(lambda: world.known_as == "x")


async def test_a_plug_is_rendered_while_the_switch_is_busy_and_sent_with_the_next_turn(world: World) -> None:
    world.switch.free.clear()
    await world.rename("x")
    begun = world.switch.begun
    await world.until(lambda: world.switch.begun > begun)
    world.told(MADE)
    await world.until(lambda: "a" in world.turns.claims() and world.turns.claims()["a"].status == "ACTIVE")
    assert not world.switch.knows(CLASSIFIED)
    world.switch.free.set()
    await world.until(lambda: len(world.switch.has) >= 2 and world.switch.knows(CLASSIFIED))
    assert not world.switch.has[-2].get(CLASSIFIED), "a bundle holds what stood at the end of a settling, all of it"
    await world.until(lambda: world.told_of[-1].said["a"].status == "ACTIVE")
