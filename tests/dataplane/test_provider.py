"""Provider networks on real Open vSwitches: two hosts on one physical network, and machines on it that no DF DB knows."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from chassis import BRIDGE, TestChassis, chassis, inside, reaches
from msgspec.structs import replace
from underlay import machine as on_fabric

from dragonflow.apps.door import Door
from dragonflow.apps.wiring import chassis_mac
from dragonflow.controller.probe import Planner
from dragonflow.controller.report import claims
from dragonflow.controller.view import Me
from dragonflow.lab import system
from dragonflow.lab.physical import PhysicalNetwork
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Binding, FixedIP, LogicalPort, OvsPort
from dragonflow.pipeline import Local, Remote
from dragonflow.switch.trace import parse
from dragonflow.testing import worlds

VLAN, FLAT = worlds.vlan("vlan", 4, 100), worlds.vlan("flat", 5, 0, network_type="flat", segmentation_id=None)
TUNNELLED = worlds.network("net", 1)
HOSTS = tuple(
    worlds.chassis(name, f"198.18.8.{number}", bridge_mappings=worlds.MAPPINGS)
    for number, name in ((1, "h1"), (2, "h2"))
)
V1, V2 = worlds.port("v1", 41, on="h1", net="vlan"), worlds.port("v2", 42, on="h2", net="vlan")
F1, F2 = worlds.port("f1", 51, on="h1", net="flat"), worlds.port("f2", 52, on="h2", net="flat")
T1, T2 = worlds.port("t1", 11, on="h1"), worlds.port("t2", 12, on="h2")
ROWS = (VLAN, FLAT, TUNNELLED, *HOSTS, V1, V2, F1, F2, T1, T2)

_serial = itertools.count()


class Ground:
    """A fabric for tunnels, a physical network beside it, and the peers there."""

    def __init__(self, netns: str) -> None:
        self.netns = netns
        self.switch = VSwitch(Path(tempfile.mkdtemp(prefix="dfp-")), netns)
        self.physical = PhysicalNetwork(self.switch)
        self._peers: list[str] = []

    def peer(self, *addresses: str, vlan: int | None = None) -> str:
        """A machine on the physical network; returns its namespace."""
        number = next(_serial)
        netns = f"dfp-{os.getpid()}-{number}"
        self._peers.append(netns)
        self.physical.add_peer(f"q{number}", netns, addresses, vlan)
        return netns

    def clear(self) -> None:
        self.switch.remove()
        for netns in self._peers:
            system.netns_delete(netns)
        system.netns_delete(self.netns)


@pytest.fixture
def ground() -> Iterator[Ground]:
    if os.geteuid() != 0 or shutil.which("ovs-vswitchd") is None:
        pytest.skip("needs root and Open vSwitch")
    made = Ground(f"dfp-{os.getpid()}-{next(_serial)}")
    system.netns_add(made.netns)
    try:
        system.ip(made.netns, "link add fabric type bridge", "link set fabric mtu 9000 up")
        made.switch.start()
        made.physical.up()
        yield made
    finally:
        made.clear()


@contextmanager
def machine(ground: Ground, vtep: str) -> Iterator[VSwitch]:
    """A host on both networks."""
    with on_fabric(ground.netns, vtep) as switch:
        assert switch.netns is not None
        ground.physical.join(f"p{next(_serial)}", switch.netns, switch)
        yield switch


@asynccontextmanager
async def hosts(ground: Ground) -> AsyncIterator[tuple[TestChassis, TestChassis]]:
    """The two chassis, joined, with all rows."""
    async with AsyncExitStack() as stack:
        found = []
        for row in HOSTS:
            switch = stack.enter_context(machine(ground, row.tunnel_ip))
            found.append(await stack.enter_async_context(chassis(switch, Me.of(row, permitted_ethertypes=(0x1234,)))))
        for it in found:
            await it.now(*ROWS)
        for it in found:
            await it.until(lambda it=it: sum(isinstance(place, Remote) for place in it.engine.places.values()) == 3)  # type: ignore[misc]
        yield found[0], found[1]


def address(port: LogicalPort) -> tuple[str, str]:
    return f"{port.ips[0]}/24", f"{port.ips[1]}/64"


def patch(here: TestChassis) -> int:
    """The OpenFlow port to the physical network."""
    found = here.replica.get(OvsPort, "df-int-br-ex")
    assert found is not None
    assert found.ofport is not None
    return found.ofport


async def test_a_vlan_a_flat_network_and_a_tunnelled_one_between_the_same_hosts_and_peers(ground: Ground) -> None:
    """All have the same subnets, so whoever reaches whom shows that they don't mix."""
    tagged, untagged, other = (
        ground.peer("10.0.0.99/24", "fd00::99/64", vlan=100),
        ground.peer("10.0.0.99/24", "fd00::99/64"),
        ground.peer("10.0.0.98/24", "fd00::98/64", vlan=101),
    )
    async with hosts(ground) as (one, two):
        assert one.engine.places["v2"] == one.engine.places["f2"] == Remote("h2", patch(one))
        assert two.engine.places["v1"] == two.engine.places["f1"] == Remote("h1", patch(two))
        v1, f1, t1 = [await one.vm(port, *address(port)) for port in (V1, F1, T1)]
        v2, f2, t2 = [await two.vm(port, *address(port)) for port in (V2, F2, T2)]
        for a, b, peer in ((V1, V2, tagged), (F1, F2, untagged), (T1, T2, None)):
            here, there = {V1: (v1, v2), F1: (f1, f2), T1: (t1, t2)}[a]
            for target in b.ips:
                assert reaches(here, target), (a.id, target)
            for target in a.ips:
                assert reaches(there, target), (b.id, target)
                if peer is not None:
                    assert reaches(peer, target), (a.id, "from its peer")
            for peers in ("10.0.0.99", "fd00::99"):
                assert reaches(there, peers) == (peer is not None), (b.id, peers)
            for peers in ("10.0.0.98", "fd00::98"):
                assert not reaches(here, peers), "another VLAN"
        assert not reaches(other, V1.ips[0])
        assert not reaches(untagged, V1.ips[0])
        assert not reaches(tagged, F1.ips[0])
        assert reaches(v1, "10.0.0.99", "-M", "do", "-s", 1500 - 28), "a full frame with a tag"


def frame(here: TestChassis, ofport: int, *fields: str, dst: str = V1.mac, src: str = "02:00:00:00:99:99") -> str:
    """What the chassis would do with a packet."""
    return here.trace(",".join((f"in_port={ofport}", f"dl_src={src}", f"dl_dst={dst}", "dl_type=0x1234", *fields)))


BROADCAST, NOBODY = "ff:ff:ff:ff:ff:ff", "02:00:00:00:99:98"


async def test_what_leaves_and_what_comes_in(ground: Ground) -> None:
    async with hosts(ground) as (one, _):
        for port in (V1, F1, T1):
            await one.vm(port)
        out, ofports = patch(one), {port: one.engine.places[port.id].ofport for port in (V1, F1, T1)}  # type: ignore[union-attr]
        for port, tags in ((V1, [100]), (F1, [None]), (T1, [])):
            for target in (BROADCAST, NOBODY):
                traced = frame(one, ofports[port], dst=target, src=port.mac)
                left = [it.vlan for it in parse(traced).outputs if it.ofport == out]
                assert left == tags, traced
        assert not parse(frame(one, ofports[F1], "dl_vlan=100", dst=BROADCAST, src=F1.mac)).outputs, "a guest's own tag"
        assert not parse(frame(one, ofports[V1], "dl_vlan=101", dst=NOBODY, src=V1.mac)).outputs
        for tag, port in (("dl_vlan=100", V1), ("vlan_tci=0", F1), ("vlan_tci=0x7000", F1)):
            for target in (port.mac, BROADCAST):
                traced = frame(one, out, tag, dst=target)
                assert [it.ofport for it in parse(traced).outputs] == [ofports[port]], traced
            for target in (NOBODY, {V1: V2, F1: F2}[port].mac):
                assert not parse(frame(one, out, tag, dst=target)).outputs, (
                    "for somebody elsewhere, who has got it already"
                )
        assert not parse(frame(one, out, "dl_vlan=101", dst=BROADCAST)).outputs
        await one.now(replace(V1, port_security=False))
        assert [it.ofport for it in parse(frame(one, out, "dl_vlan=100", dst=NOBODY)).outputs] == [ofports[V1]]
        await one.now(V1)


async def test_a_port_that_moves_over_the_physical_network_gives_balanced_events(ground: Ground) -> None:
    peer = ground.peer("10.0.0.99/24", vlan=100)
    async with hosts(ground) as (one, two):
        old = await one.vm(V1, *address(V1))
        assert reaches(peer, V1.ips[0])
        events = []
        for here in (one, two):
            settled = await here.now(replace(V1, chassis="h2"))
            events.append([str(event) for event in settled.events])
        assert events == [["local_deleted v1", "remote_created v1"], ["remote_deleted v1"]]
        inside(old, "ip", "link", "set", "eth0", "down")
        new = await two.vm(replace(V1, chassis="h2"), *address(V1))
        assert two.engine.places["v1"] != one.engine.places["v1"] == Remote("h2", patch(one))
        assert reaches(new, "10.0.0.99"), "as soon as it speaks, the physical switch knows where it is"
        assert reaches(peer, V1.ips[0])
        settled = await one.now(
            replace(V1, chassis="h3"), worlds.chassis("h3", "198.18.8.3", bridge_mappings=worlds.MAPPINGS)
        )
        assert [str(event) for event in settled.events] == ["remote_updated v1"]
        settled = await one.now(worlds.chassis("h3", "198.18.8.3"))
        assert [str(event) for event in settled.events] == ["remote_deleted v1"]


async def test_a_port_is_active_only_while_its_physical_network_is_there(ground: Ground) -> None:
    async with hosts(ground) as (one, two):
        for binding, here in (("v1", one), ("f1", one), ("v2", two)):
            host, net = here.me.chassis, "flat" if binding == "f1" else "vlan"
            await here.now(Binding(id=binding, host=host, network=net, generation=0))
        await one.vm(V1)
        await one.vm(F1)
        await two.vm(V2)

        def said(here: TestChassis, port: str) -> tuple[str, str]:
            claim = claims(here.me, here.replica, here.engine.locality)[port]
            return claim.status, claim.reason

        assert said(one, "v1") == said(one, "f1") == said(two, "v2") == ("ACTIVE", "")
        for here, port in ((one, "v1"), (one, "f1"), (two, "v2")):
            planner = Planner(here.replica, here.engine.locality, here.me, "tunnelled")
            assert planner.wants(here.replica.get(LogicalPort, port).network)  # type: ignore[union-attr]
            proves(here, planner, port)
        await one.now(gone=(V2,))  # nobody known is left to talk to
        proves(one, Planner(one.replica, one.engine.locality, one.me, "tunnelled"), "v1")
        await one.now(V2)
        one.vswitch.vsctl("del-br", "br-ex")
        await one.until(lambda: one.replica.get(OvsPort, "df-int-br-ex") is None)
        reason = "bridge br-ex of physical network physnet1 is missing or can't be joined to br-int"
        assert said(one, "v1") == ("DOWN", reason)
        assert "v2" not in one.engine.places
        assert isinstance(one.engine.places["v1"], Local)


R = worlds.router("r", 9, "vlan", "net")
TO_VLAN = worlds.interface("r", 61, FixedIP("s-vlan", "10.1.0.1"), FixedIP("s-vlan6", "fd01::1"), net="vlan")
TO_NET = worlds.interface("r", 62, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::1"))
SUBNETS = (
    *worlds.SUBNETS[:2],
    *(worlds.subnet("s-vlan", "10.1.0.0/24", "vlan"), worlds.subnet("s-vlan6", "fd01::/64", "vlan")),
)
W1, W2 = (
    replace(port, fixed_ips=(FixedIP("s-vlan", f"10.1.0.{port.key}"), FixedIP("s-vlan6", f"fd01::{port.key}")))
    for port in (V1, V2)
)


async def test_a_router_joins_a_vlan_and_a_tunnelled_network_with_its_mac_at_one_port_of_the_physical_one(
    ground: Ground,
) -> None:
    """Each of four VMs on two hosts reaches all others; the switch outside sees MACs of VMs and hosts, each at one port."""
    async with hosts(ground) as (one, two):
        vms = {}
        for here, mine in ((one, (W1, T1)), (two, (W2, T2))):
            await here.now(*SUBNETS, R, TO_VLAN, TO_NET, W1, W2)
            for port in mine:
                vm = vms[port] = await here.vm(port, *address(port))
                four, six = ("10.1.0.1", "fd01::1") if port.network == "vlan" else ("10.0.0.1", "fd00::1")
                inside(vm, "ip", "route", "add", "default", "via", four)
                inside(vm, "ip", "-6", "route", "add", "default", "via", six)
        for port, vm in vms.items():
            for other in vms:
                for target in other.ips:
                    assert reaches(vm, target), (port.id, other.id, target)
        shown = inside(vms[W1], "ping", "-n", "-c", "1", "-W", "2", T2.ips[0]).stdout
        assert "ttl=63" in shown, shown
        learnt = [line.split() for line in ground.switch.appctl("fdb/show", "physnet1").splitlines()[1:]]
        seen = {mac: port for port, _, mac, _ in learnt}
        assert len(seen) == len(learnt), "a MAC at two ports"
        assert seen[W1.mac] != seen[W2.mac]
        (keeper,) = [here for here in (one, two) if keeps(here)]
        for here, guest in ((one, W1), (two, W2)):
            routers, not_here = (TO_VLAN.mac, chassis_mac(here.me.chassis))[:: 1 if here is keeper else -1]
            assert seen[routers] == seen[guest.mac], "the doorkeeper alone uses the router's own"
            assert here is not keeper or not_here not in seen


def keeps(here: TestChassis) -> bool:
    return any(True for _ in Door().unasked(here.view()))


def proves(here: TestChassis, planner: Planner, port: str) -> None:
    """What the chassis tries to prove that the port works, works; and doesn't with the flows of the physical network gone."""
    place = here.engine.places[port]
    assert isinstance(place, Local)
    plan = planner.plan(port, place.ofport)
    assert plan is not None
    assert plan.got is not None
    probes = (*plan.sent, plan.got)
    assert all(probe.out is not None and probe.out.vtep is None for probe in probes)
    for probe in probes:
        traced = here.trace(probe.flow)
        assert probe.fault(parse(traced)) is None, traced
    saved = here.vswitch.ofctl("dump-flows", BRIDGE, "--no-stats", "--no-names")
    for table in (2, 193):
        here.vswitch.ofctl("del-flows", BRIDGE, f"table={table}")
    assert all(probe.fault(parse(here.trace(probe.flow))) for probe in probes)
    here.vswitch.ofctl(
        "add-flows", BRIDGE, "-", stdin="".join(flow for flow in saved.splitlines(True) if "cookie" in flow)
    )
