"""Hearing who holds shared addresses, writing it, asking, and leaving off, by hand and with a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from msgspec.structs import replace
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from dragonflow.apps import APPS
from dragonflow.apps.l2 import to_port
from dragonflow.apps.shared import MOST, holder_of
from dragonflow.apps.wiring import chassis_mac, link_local
from dragonflow.controller import holders
from dragonflow.controller.engine import Engine
from dragonflow.controller.holders import CLAIMS, CLAIMS_AT_ONCE, PERIOD, REACHABLE, TRIES, VACANT, Holders
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import View
from dragonflow.model import AddressPair, Alive, Holder, LogicalPort, decode, holder_scope
from dragonflow.packet import arp, nd
from dragonflow.pipeline import PacketOut, Punted, PuntKind
from dragonflow.pubsub.memory import MemoryPubSub
from dragonflow.pubsub.protocol import CHANGES
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Unavailable
from dragonflow.testing import worlds

VIP, VIP6, VMAC = "10.0.0.99", "fd00::99", "00:00:5e:00:01:07"
A, C = (it for it in worlds.SHARED if isinstance(it, LogicalPort) and it.id in ("a", "c"))
B = worlds.port("b", 12, address_pairs=A.address_pairs)
ROWS = (
    *(it for it in worlds.SHARED if not isinstance(it, Holder)),
    *(B, worlds.tap("b", 2), Alive(id="here", since=0.0), Alive(id="there", since=0.0)),
)
OWN = bytes.fromhex(chassis_mac("here").replace(":", ""))


class Ground:
    """A chassis with two ports that share addresses with a third one, which is elsewhere; and time."""

    def __init__(self) -> None:
        self.now, self.news, self.revision = 1000.0, 0, 100_000
        self.replica = Replica()
        self.store, self.bus = MemoryStore(), MemoryPubSub()
        self.replica.reset_scope(holder_scope("here"), (), 0)
        self.engine = Engine(APPS, self.replica, worlds.ME)
        self.it = Holders(
            self.store, self.bus, self.replica, "here", self._told, clock=lambda: self.now, now=lambda: self.now
        )
        self.takes(*ROWS)

    def _told(self) -> None:
        self.news += 1

    def takes(self, *rows: Object, gone: tuple[Holder | LogicalPort, ...] = ()) -> None:
        """News of rows."""
        self.revision += 1
        worlds.load(self.replica, *rows, revision=self.revision)
        for row in gone:
            self.replica.remove(type(row), row.id, self.revision)
        self.engine.settle()

    def view(self) -> View:
        return View(self.replica, self.engine.places, worlds.ME, self.engine.serving)

    def hears(self, port: LogicalPort, address: str = VIP, mac: str = "", *, asked: bool = False) -> None:
        frame = says(address, mac or port.mac, asked=asked)
        assert list(self.it.heard(Punted(PuntKind.ADDRESS_HELD, port.id.encode(), frame, 1, {}), self.view())) == []

    def asks(self, seconds: float = PERIOD) -> list[PacketOut]:
        self.now += seconds
        return list(self.it.tick(self.view()))

    async def writes(self) -> bool:
        changed = await self.it._write()
        self.engine.settle()
        return changed

    async def stored(self) -> dict[str, Holder]:
        """What the DF DB has of this chassis, by port and address."""
        records = (await self.store.snapshot([holder_scope("here")])).records
        rows = [decode(it.key.kind, it.key.id, it.data or b"", it.key.scope) for it in records]
        return {f"{row.port} {row.address}": row for row in rows if isinstance(row, Holder)}

    def held(self, address: str = VIP) -> str | None:
        found = holder_of("net", address, self.replica)
        return None if found is None else found.port


def says(address: str, mac: str, *, asked: bool) -> bytes:
    """What a VM sends unasked when it takes an address, or when it was asked."""
    octets = bytes.fromhex(mac.replace(":", ""))
    if ":" not in address:
        if asked:
            return bytes(Ether(src=mac, dst=OWN.hex(":")) / ARP(op=2, hwsrc=mac, psrc=address, pdst="0.0.0.0"))
        return arp.announcement(octets, IPv4Address(address))
    if asked:
        tells = ICMPv6ND_NA(tgt=address, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
        return bytes(Ether(src=mac, dst=OWN.hex(":")) / IPv6(src=address, dst=link_local(OWN.hex(":"))) / tells)
    return nd.announcement(octets, IPv6Address(address))


def question(port: LogicalPort, address: str) -> PacketOut:
    at = ip_address(address)
    if isinstance(at, IPv4Address):
        return PacketOut(arp.request(OWN, IPv4Address(0), at), to_port(port))
    return PacketOut(nd.solicitation(OWN, IPv6Address(link_local(OWN.hex(":"))), at), to_port(port))


@pytest.fixture
def ground() -> Ground:
    return Ground()


async def test_who_announces_has_it_and_the_newest_wins(ground: Ground) -> None:
    messages = ground.bus.subscribe((CHANGES,))
    first = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    assert not await ground.writes()
    ground.hears(A)
    ground.hears(A, VIP6)
    assert await ground.writes()
    assert [record.key.kind for record in (await asyncio.wait_for(first, 5)).records] == ["Holder", "Holder"]
    rows = await ground.stored()
    assert {name: (row.mac, row.turn) for name, row in rows.items()} == {f"a {it}": (A.mac, 1) for it in (VIP, VIP6)}
    assert (ground.held(), ground.held(VIP6)) == ("a", "a")
    ground.hears(A)
    assert not await ground.writes(), "nothing new"
    ground.takes(worlds.holder(C, VIP, turn=5))
    assert ground.held() == "c"
    await ground.writes()
    assert set(await ground.stored()) == {f"a {VIP6}"}, "what no longer counts goes"
    ground.hears(A, mac=VMAC)
    await ground.writes()
    assert ((await ground.stored())[f"a {VIP}"].mac, ground.held()) == (VMAC, "a")
    ground.hears(B)
    await ground.writes()
    await ground.writes()
    assert (set(await ground.stored()), ground.held()) == ({f"b {VIP}", f"a {VIP6}"}, "b")


async def test_what_is_not_announced_counts_only_where_nobody_is_known(ground: Ground) -> None:
    ground.hears(A, asked=True)
    ground.hears(B, VIP6, asked=True)
    await ground.writes()
    assert (ground.held(), ground.held(VIP6)) == ("a", "b")
    ground.hears(B, asked=True)
    ground.hears(A, VIP6, asked=True)
    assert not await ground.writes()
    ground.takes(worlds.holder(C, VIP, turn=5))
    ground.hears(B, asked=True)
    await ground.writes()
    assert ground.held() == "c"
    ground.replica.remove(Alive, "there", ground.revision + 1)
    ground.hears(B, asked=True)
    await ground.writes()
    assert ground.held() == "b", "nobody looks after the other one"


INTERFACE = next(it for it in ROWS if it.id == "r-net")
RESERVED = next(it for it in ROWS if isinstance(it, LogicalPort) and it.id == "vip")


@pytest.mark.parametrize(
    "changed",
    [
        replace(A, address_pairs=()),
        replace(A, address_pairs=(AddressPair(VIP, VMAC),)),
        replace(A, chassis="there"),
        replace(A, chassis=None),
        replace(A, admin_up=False),
        worlds.network(admin_up=False),
        replace(INTERFACE, network="other"),  # no router stands there any more
        replace(RESERVED, chassis="there"),  # a VM has it as its own
        replace(RESERVED, device_owner="network:dhcp"),
    ],
)
async def test_nobody_is_believed_who_may_not_have_it_and_who_may_no_longer_loses_it(changed: Object) -> None:
    ground = Ground()
    ground.takes(changed)
    ground.hears(A)
    assert not await ground.writes()
    ground = Ground()
    ground.hears(A)
    await ground.writes()
    assert ground.held() == "a"
    ground.takes(changed)
    await ground.writes()
    assert await ground.stored() == {}


@pytest.mark.parametrize(
    "frame", [b"", bytes(60), bytes(12) + b"\x08\x06" + bytes(40), bytes(12) + b"\x86\xdd" + bytes(90)]
)
async def test_what_says_nothing_is_passed_over(ground: Ground, frame: bytes) -> None:
    for port in (A.id, "unheard-of"):
        assert list(ground.it.heard(Punted(PuntKind.ADDRESS_HELD, port.encode(), frame, 1, {}), ground.view())) == []
    ground.hears(A, "10.0.0.98")
    ground.hears(A, A.ips[0])
    assert not await ground.writes()


async def test_ports_are_asked_for_what_nobody_has_and_the_one_that_has_it_now_and_then(ground: Ground) -> None:
    def asked(seconds: float = PERIOD) -> list[PacketOut]:
        return sorted(ground.asks(seconds), key=repr)

    def all_of(*ports: LogicalPort, address: str = VIP6) -> list[PacketOut]:
        return [question(port, address) for port in ports]

    everything = sorted((*all_of(A, B), *all_of(A, B, address=VIP)), key=repr)
    assert asked() == everything
    assert asked() == []
    assert asked(VACANT) == everything
    ground.hears(A, asked=True)
    await ground.writes()
    assert asked(VACANT) == sorted(all_of(A, B), key=repr), "of the other address nobody is known"
    assert question(A, VIP) in asked(REACHABLE)
    ground.takes(worlds.holder(C, VIP6))
    for _ in range(3):
        ground.hears(A, asked=True)
        assert asked(REACHABLE) == all_of(A, address=VIP)
    for _ in range(TRIES - 1):
        assert asked() == all_of(A, address=VIP)
        assert not await ground.writes()
    asked()
    assert await ground.writes(), "it has fallen silent"
    assert ground.held() is None
    assert asked(VACANT) == sorted(all_of(A, B, address=VIP), key=repr)
    ground.replica.remove(Alive, "there", ground.revision + 1)
    assert all_of(B)[0] in asked(VACANT), "whose holder's chassis is dead"


async def test_a_port_holds_no_more_than_one_may(ground: Ground) -> None:
    many = replace(A, address_pairs=(AddressPair("10.0.0.0/24"),))
    ground.takes(many)
    for number in range(MOST + 3):
        ground.hears(many, f"10.0.0.{100 + number}")
    await ground.writes()
    assert len(await ground.stored()) == MOST
    ground.hears(many, "10.0.0.200")
    assert not await ground.writes()
    ground.hears(many, "10.0.0.100", VMAC)
    assert not await ground.writes(), "with that MAC it may not"


async def test_what_was_heard_is_written_when_the_df_db_is_back(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "_BACKOFF", (0.01, 0.01))
    commit, away = ground.store.commit, [True]

    async def failing(txn: object) -> int:
        if away:
            raise Unavailable("nobody answers")
        return await commit(txn)  # type: ignore[arg-type]

    monkeypatch.setattr(ground.store, "commit", failing)
    running = asyncio.ensure_future(ground.it.run())
    try:
        ground.hears(A)
        await until(lambda: ground.it.trouble is not None)
        assert ground.held() is None
        ground.hears(B)
        away.clear()
        await until(lambda: ground.held() == "b")
        await until(lambda: ground.it.trouble is None)
        assert ground.news
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_port_that_is_about_to_move_here_brings_what_it_has(ground: Ground) -> None:
    """Before the move the row lies ready and doesn't count; it goes again if the port stays, or loses the address."""
    coming = replace(C, standby=("here",))
    there = worlds.holder(C, VIP, turn=7, mac=VMAC)
    ground.takes(coming, there)
    await ground.writes()
    assert {name: (row.mac, row.turn) for name, row in (await ground.stored()).items()} == {f"c {VIP}": (VMAC, 7)}
    assert holder_of("net", VIP, ground.replica) == there
    assert not await ground.writes()
    ground.takes(gone=(there,))
    await ground.writes()
    assert await ground.stored() == {}
    ground.takes(there)
    await ground.writes()
    ground.takes(replace(C, chassis="here", standby=()), worlds.tap("c", 3))
    here = holder_of("net", VIP, ground.replica)
    assert here is not None
    assert (here.chassis, here.mac) == ("here", VMAC)
    ground.replica.drop_scope(holder_scope("there"))
    ground.engine.settle()
    assert not await ground.writes()
    assert question(C, VIP) in ground.asks(), "whether it came along"


async def test_ports_that_quarrel_write_no_more_than_their_share_and_the_last_word_counts(ground: Ground) -> None:
    """Two guests announce the same address in turns, as fast as they can."""
    writes = 0
    for turn in range(4 * CLAIMS_AT_ONCE):
        ground.hears(A if turn % 2 else B)
        writes += await ground.writes()
        ground.now += 0.01
    assert 2 * CLAIMS_AT_ONCE <= writes < 3 * CLAIMS_AT_ONCE
    ground.hears(B)
    ground.asks(1 / CLAIMS)
    await ground.writes()
    assert ground.held() == "b", "what had to wait is written in its latest form"
    ground.asks(CLAIMS_AT_ONCE / CLAIMS + 1)
    assert ground.it._paid == {}
