import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection

import msgspec
import pytest

from dragonflow.controller.replica import Replica
from dragonflow.controller.report import Claim, Liveness, Report, claims, without
from dragonflow.controller.view import Me
from dragonflow.model import (
    Alive,
    Binding,
    BridgeMapping,
    Chassis,
    LogicalPort,
    LogicalSwitch,
    OvsPort,
    PortStatus,
    Row,
    decode,
    encode,
    host_scope,
    network_scope,
    status_scope,
)
from dragonflow.pipeline import Local, Locality, Remote
from dragonflow.pubsub.protocol import PORT_STATUS, Message
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Delete, Key, Put, Txn, Unavailable
from dragonflow.testing import worlds

HERE = Chassis(id="h1", tunnel_ip="192.0.2.1")
ME = Me.of(HERE)
PORT = LogicalPort(id="p1", key=1, network="n1", mac="fa:16:3e:00:00:01", chassis="h1", generation=3, revision=1)
BINDING = Binding(id="p1", host="h1", network="n1", generation=3)
ACTIVE = Claim("n1", 3, "ACTIVE", 7, ofport=5)


class Bus:
    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def publish(self, message: Message) -> None:
        self.sent.append(message)

    def subscribe(self, topics: Collection[str]) -> AsyncIterator[Message]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class FaultyStore(MemoryStore):
    """Memory whose next commits fail: before they are done, or after (the answer is lost)."""

    faults: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.faults = []

    async def commit(self, txn: Txn) -> int:
        fault = self.faults.pop() if self.faults else ""
        if fault == "before":
            raise Unavailable("away")
        revision = await super().commit(txn)
        if fault == "after":
            raise Unavailable("answer lost")
        return revision


def replica(*rows: tuple[Row, int]) -> Replica:
    held = Replica()
    for scope in ("chassis", host_scope("h1"), status_scope("h1"), network_scope("n1")):
        held.reset_scope(scope, [(row, revision) for row, revision in rows if row.scope == scope], 0)
    return held


def down(reason: str) -> Claim:
    return Claim("n1", 3, "DOWN", 7, reason)


NET = LogicalSwitch(id="n1", key=1, network_type="geneve", segmentation_id=7, mtu=1442, revision=1)
TAP = OvsPort(id="tap1", ofport=5, iface_id="p1")
MOVING = msgspec.structs.replace(PORT, chassis="h2", standby=("h1",))
PREPARED = msgspec.structs.replace(BINDING, active=False)
OFF = "switched off (admin_state_up is false)"
UNPLUGGED = "not plugged: no interface of the integration bridge with its iface-id has an OpenFlow port"


@pytest.mark.parametrize(
    ("port", "binding", "place", "interface", "said"),
    [
        (PORT, BINDING, Local(5), TAP, ACTIVE),
        (PORT, BINDING, None, None, down(UNPLUGGED)),
        (PORT, BINDING, None, msgspec.structs.replace(TAP, ofport=None), down(UNPLUGGED)),
        (PORT, BINDING, Remote("h2", 1, "192.0.2.2"), TAP, down("no app gives the port a place here")),
        (msgspec.structs.replace(PORT, admin_up=False), BINDING, Local(5), TAP, down(OFF)),
        (
            *(PORT, BINDING, None, msgspec.structs.replace(TAP, ofport=None, error="no such device")),
            down("interface tap1 doesn't work: no such device"),
        ),
        (msgspec.structs.replace(PORT, chassis="h2"), BINDING, Local(5), TAP, None),
        (PORT, msgspec.structs.replace(BINDING, generation=4), Local(5), TAP, None),
        (PORT, PREPARED, Local(5), TAP, None),
        (None, BINDING, None, TAP, None),
        (PORT, None, Local(5), TAP, None),
        (MOVING, PREPARED, Remote("h2", 1, "192.0.2.2"), TAP, ACTIVE),
        (MOVING, PREPARED, None, TAP, ACTIVE),
        (MOVING, PREPARED, Remote("h2", 1, "192.0.2.2"), None, down(UNPLUGGED)),
        (msgspec.structs.replace(MOVING, admin_up=False), PREPARED, None, TAP, down(OFF)),
        (MOVING, BINDING, None, TAP, None),
    ],
)
def test_a_chassis_speaks_only_of_ports_bound_to_it_and_says_why_they_are_down(
    port: LogicalPort | None,
    binding: Binding | None,
    place: Locality | None,
    interface: OvsPort | None,
    said: Claim | None,
) -> None:
    held = replica(*((row, 7) for row in (NET, port, binding) if row is not None))
    if interface is not None:
        held.upsert_port(interface)
    assert claims(ME, held, {"p1": place}.get) == ({} if said is None else {"p1": said})


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (None, "network n1 has no row in the DF DB"),
        (msgspec.structs.replace(NET, admin_up=False), "network n1 is switched off (admin_state_up is false)"),
    ],
)
def test_a_port_is_down_for_its_networks_sake(network: LogicalSwitch | None, reason: str) -> None:
    held = replica(*((row, 7) for row in (network, PORT, BINDING) if row is not None))
    held.upsert_port(TAP)
    assert claims(ME, held, {}.get) == {"p1": down(reason)}


VLAN = LogicalSwitch(
    id="n1", key=1, network_type="vlan", physical_network="physnet1", segmentation_id=7, mtu=1500, revision=1
)
MAPPED = Me.of(msgspec.structs.replace(HERE, bridge_mappings=(BridgeMapping("physnet1", "br-ex"),)))
PATCH = OvsPort(id="df-int-br-ex", ofport=9, patch="br-ex")
MISSING = "bridge br-ex of physical network physnet1 is missing or can't be joined to br-int"


@pytest.mark.parametrize(
    ("me", "patch", "said"),
    [
        (MAPPED, PATCH, ACTIVE),
        (ME, PATCH, down("no bridge for physical network physnet1 in [df] bridge_mappings of h1")),
        (MAPPED, None, down(MISSING)),
        (MAPPED, msgspec.structs.replace(PATCH, ofport=None), down(MISSING)),
        (MAPPED, msgspec.structs.replace(PATCH, patch=None), down(MISSING)),
    ],
)
@pytest.mark.parametrize("migrating", [False, True])
def test_a_port_is_down_while_its_physical_network_cannot_be_reached(
    me: Me, patch: OvsPort | None, said: Claim, migrating: bool
) -> None:
    port, binding = (MOVING, PREPARED) if migrating else (PORT, BINDING)
    held = replica((VLAN, 7), (port, 7), (binding, 7))
    for interface in (TAP, patch):
        if interface is not None:
            held.upsert_port(interface)
    place = Remote("h2", 9) if migrating else Local(5)
    assert claims(me, held, {"p1": place}.get) == {"p1": said}


@pytest.mark.parametrize("broken", ["", "p1", "n1", "p2"])
def test_what_is_not_wholly_installed_is_down(broken: str) -> None:
    told = without({broken: "l2/…: bad group"} if broken else {}, {"p1": ACTIVE})["p1"]
    wrong = broken in ("p1", "n1")
    assert told.status == ("DOWN" if wrong else "ACTIVE")
    assert told.reason == ("flows left out: l2/…: bad group" if wrong else "")


class World:
    def __init__(self) -> None:
        self.store, self.bus, self.replica = FaultyStore(), Bus(), replica((PORT, 7), (BINDING, 7))
        self.report = Report(self.store, self.bus, self.replica, HERE, now=lambda: 1000.0)

    async def stored(self, kind: type[Row], id: str) -> Row | None:
        scope = {PortStatus: status_scope("h1"), Chassis: "chassis", Alive: "alive"}[kind]
        record = await self.store.get(Key(scope, kind.__name__, id))
        return None if record is None or record.data is None else decode(kind.__name__, id, record.data)

    async def until(self, holds: Callable[[Row | None], bool], kind: type[Row] = PortStatus, id: str = "p1") -> None:
        async with asyncio.timeout(5):
            while not holds(await self.stored(kind, id)):
                await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(world.report.run())
    yield world
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_confirmed_port_is_written_and_told(world: World) -> None:
    world.report.confirmed({"p1": ACTIVE})
    row = PortStatus(id="p1", chassis="h1", generation=3, status="ACTIVE", revision=7, at=1000.0)
    await world.until(lambda found: found == row)
    assert await world.stored(Chassis, "h1") == HERE
    (message,) = world.bus.sent
    assert message.topic == PORT_STATUS
    assert [record.data for record in message.records] == [encode(row)]


async def test_what_stands_already_is_not_written_again(world: World) -> None:
    world.report.confirmed({"p1": ACTIVE})
    await world.until(lambda found: found is not None)
    before = (await world.store.snapshot(["*"])).revision
    world.report.confirmed({"p1": ACTIVE})
    world.report.wake()
    world.report.confirmed({"p1": down(UNPLUGGED)})
    await world.until(lambda found: isinstance(found, PortStatus) and found.status == "DOWN")
    assert (await world.store.snapshot(["*"])).revision == before + 1


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_outage_of_the_store_loses_nothing(world: World, fault: str) -> None:
    world.store.faults = [fault]
    world.report.confirmed({"p1": ACTIVE})
    await world.until(lambda found: found is not None)


async def test_a_row_lost_behind_our_back_is_written_again(world: World) -> None:
    world.report.confirmed({"p1": ACTIVE})
    await world.until(lambda found: found is not None)
    key = Key(status_scope("h1"), "PortStatus", "p1")
    revision = await world.store.commit(Txn((Delete(key),)))
    world.replica.remove(PortStatus, "p1", revision)
    world.report.wake()
    await world.until(lambda found: found is not None)


async def test_the_status_of_a_port_that_is_no_longer_bound_here_goes(world: World) -> None:
    world.report.confirmed({"p1": ACTIVE})
    await world.until(lambda found: found is not None)
    world.replica.remove(Binding, "p1", 1000)
    world.report.confirmed({})
    await world.until(lambda found: found is None)
    assert world.bus.sent[-1].records[0].data is None


async def test_a_bus_that_fails_keeps_no_status_from_being_written(world: World) -> None:
    async def fail(message: Message) -> None:
        raise OSError("no bus")

    world.bus.publish = fail  # type: ignore[method-assign]
    world.report.confirmed({"p1": ACTIVE})
    await world.until(lambda found: found is not None)
    world.report.confirmed({"p1": down(UNPLUGGED)})
    await world.until(lambda found: isinstance(found, PortStatus) and found.reason == UNPLUGGED)


async def test_ports_that_change_during_a_long_outage_are_told_soon_after_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what holds at its end is written, and the outage is logged once."""
    world.store.faults = ["before"] * 6
    for turn in range(20):
        world.report.confirmed({"p1": ACTIVE if turn % 2 else down(UNPLUGGED)})
        await asyncio.sleep(0.01)
    assert not await world.report.written(0.01)
    assert world.report.trouble == "away"
    world.store.faults = []
    assert await world.report.written(1.5)
    assert world.report.trouble is None
    found = await world.stored(PortStatus, "p1")
    assert isinstance(found, PortStatus)
    assert found.status == "ACTIVE"
    assert len([it for it in caplog.records if "can't be written" in it.message]) == 1
    assert len([it for it in caplog.records if "written again" in it.message]) <= 1


async def test_a_storm_of_statuses_is_written_in_batches_that_any_store_takes(world: World) -> None:
    said = {f"p{number}": down("x" * 10_000) for number in range(950)}
    before = (await world.store.snapshot(["*"])).revision
    world.report.confirmed(said)
    assert await world.report.written(10)
    snapshot = await world.store.snapshot([status_scope("h1")])
    assert len(snapshot.records) == 950
    assert 10 <= snapshot.revision - before <= 12
    assert all(len(message.records) <= 100 for message in world.bus.sent)
    assert max(len(record.data or b"") for record in snapshot.records) < 1000


@pytest.mark.parametrize(
    "altered",
    [
        {"status": "DOWN"},
        {"generation": 9},
        {"revision": 9},
        {"chassis": "h2"},
        {"reason": "because"},
    ],
)
async def test_a_row_that_somebody_alters_is_put_back(world: World, altered: dict[str, object]) -> None:
    world.report.confirmed({"p1": ACTIVE})
    assert await world.report.written(5)
    good = await world.stored(PortStatus, "p1")
    assert isinstance(good, PortStatus)
    bad = msgspec.structs.replace(good, **altered)
    key = Key(status_scope("h1"), "PortStatus", "p1")
    revision = await world.store.commit(Txn((Put(key, encode(bad)),)))
    if bad.scope == key.scope:
        world.replica.upsert(bad, revision)
    else:
        world.replica.remove(PortStatus, "p1", revision)  # what lies about its scope is refused at the door
    world.report.wake()
    await world.until(lambda found: found == good)


async def test_of_ports_that_are_not_mentioned_the_status_stays(world: World) -> None:
    world.report.confirmed({"p1": ACTIVE})
    assert await world.report.written(5)
    revision = (await world.store.snapshot(["*"])).revision
    world.report.confirmed({})
    assert await world.report.written(5)
    assert (await world.store.snapshot(["*"])).revision == revision


async def test_liveness_comes_back_when_its_row_or_its_lease_is_lost() -> None:
    world = World()
    liveness = Liveness(world.store, "h1", 0.4, now=lambda: 5.0)
    task = asyncio.create_task(liveness.run())
    await world.until(lambda found: found is not None, Alive, "h1")
    await world.store.commit(Txn((Delete(Key("alive", "Alive", "h1")),)))
    await world.until(lambda found: found is not None, Alive, "h1")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await liveness.end()
    assert await world.stored(Alive, "h1") is None


async def test_two_controllers_of_one_name_are_told(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    task = asyncio.create_task(Liveness(world.store, "h1", 0.4, now=lambda: 5.0).run())
    await world.until(lambda found: found is not None, Alive, "h1")
    await world.store.commit(Txn((Put(Key("alive", "Alive", "h1"), encode(Alive(id="h1", since=6.0))),)))
    async with asyncio.timeout(5):
        while "another controller calls itself h1" not in caplog.text:
            await asyncio.sleep(0.01)
    task.cancel()


def test_a_floating_ip_that_is_here_is_told_of_for_the_binding_of_its_fixed_port() -> None:
    floating, own = worlds.floating("f", 61, "203.0.113.61", router="r", fixed_port="p1", fixed_ip="10.0.0.5")
    replica = Replica()
    worlds.load(replica, PORT, BINDING, floating, own, revision=7)
    places: dict[str, Locality] = {"p1": Local(5), own.id: Local(5)}
    assert claims(ME, replica, places.get)[own.id] == Claim("ext", PORT.generation, "ACTIVE", 7, owner="f")
    broken = without({"f": "dnat/FloatingIp/f: refused"}, claims(ME, replica, places.get))
    assert (broken[own.id].status, broken["p1"].status) == ("DOWN", "ACTIVE")
    for elsewhere in ({}, {own.id: Remote("h2", 9)}):
        assert own.id not in claims(ME, replica, {"p1": Local(5), **elsewhere}.get)
