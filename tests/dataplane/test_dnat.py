"""Floating IPs on real Open vSwitches, with packets of real kernels and machines outside that no DF DB knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType

from chassis import TestChassis, chassis, inside
from msgspec.structs import replace
from test_provider import Ground, ground, machine  # noqa: F401 - ground is a fixture
from test_qos import DOUBLE, LIMIT, send, share

from dragonflow.controller.view import Me
from dragonflow.model import FixedIP, LogicalPort, Neighbour, RouterGateway
from dragonflow.pipeline import Local, Remote
from dragonflow.store.memory import Memory, MemoryStore
from dragonflow.testing import worlds

HOSTS = tuple(
    worlds.chassis(name, f"198.18.9.{number}", bridge_mappings=worlds.MAPPINGS)
    for number, name in ((1, "h1"), (2, "h2"))
)
A, B, C = worlds.port("a", 11, on="h1"), worlds.port("b", 12, on="h1"), worlds.port("c", 13, on="h2")
PORTS = (A, B, C)
IPS = {"a": "203.0.113.61", "b": "203.0.113.62", "c": "203.0.113.63"}
FLOATING = {
    port.id: worlds.floating(f"f{port.id}", port.key + 50, ip, router="r", fixed_port=port.id, fixed_ip=port.ips[0])
    for port, ip in zip(PORTS, IPS.values(), strict=True)
}
ROWS = (
    *(*HOSTS, worlds.network(), worlds.subnet("v4", "10.0.0.0/24"), *worlds.OUTSIDE),
    worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext")),
    worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")),
    worlds.gateway("r", 22, FixedIP("ext4", "203.0.113.2")),
    *(*PORTS, *(row for both in FLOATING.values() for row in both)),
)


class Cloud:
    """Two chassis with the VMs a, b and c; outside a gateway, and a server that is behind it."""

    def __init__(self, one: TestChassis, two: TestChassis, gateway: str) -> None:
        self.one, self.two, self.gateway = one, two, gateway
        self.vms: dict[str, str] = {}

    async def plug(self, port: LogicalPort, here: TestChassis) -> None:
        name = await here.vm(port, f"{port.ips[0]}/24")
        inside(name, "ip", "route", "add", "default", "via", "10.0.0.1")
        self.vms[port.id] = name

    async def now(self, *rows: object, gone: tuple[object, ...] = ()) -> None:
        for it in (self.one, self.two):
            await it.now(*rows, gone=gone)  # type: ignore[arg-type]

    async def run(self, vm: str, *command: str) -> str:
        """Beside the loop, for controllers have to answer."""
        done = await asyncio.to_thread(inside, self.vms.get(vm, vm), *command)
        return done.stdout + done.stderr

    async def pings(self, vm: str, target: str, *options: str) -> bool:
        shown = await self.run(vm, "ping", "-n", "-c", "1", "-W", "1", *options, target)
        return " 0% packet loss" in shown

    async def pings_soon(self, vm: str, target: str) -> bool:
        """An Open vSwitch that has seen an announcement before learns from the next one only when it looks its flows over."""
        for _ in range(9):
            if await self.pings(vm, target):
                return True
        return False


@asynccontextmanager
async def cloud(
    ground: Ground,  # noqa: F811
    rows: tuple[object, ...] = ROWS,
    mapped: tuple[str, ...] = ("h1", "h2"),
    ports: tuple[LogicalPort, ...] = PORTS,
    own: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> AsyncIterator[Cloud]:
    """``mapped`` are the chassis with a way outside; ``own`` the addresses of their own that they have there."""
    gateway = ground.peer("203.0.113.1/24", vlan=200)
    inside(gateway, "sh", "-c", "ip link set lo up; ip address add 192.0.2.9/32 dev lo")
    async with AsyncExitStack() as stack:
        made, dfdb = [], Memory()
        hosts = [row if row.id in mapped else replace(row, bridge_mappings=()) for row in HOSTS]
        hosts = [replace(row, snat_addresses=own.get(row.id, ())) for row in hosts]
        for row in hosts:
            switch = stack.enter_context(machine(ground, row.tunnel_ip))
            made.append(await stack.enter_async_context(chassis(switch, Me.of(row), store=MemoryStore(dfdb))))
        it = Cloud(made[0], made[1], gateway)
        await it.now(*rows, *hosts)
        for port in ports:
            await it.plug(port, it.two if port.chassis == "h2" else it.one)
        lives = [asyncio.create_task(here.live()) for here in made]
        try:
            yield it
        finally:
            for live in lives:
                live.cancel()
            await asyncio.wait(lives)
        for here in made:  # take in what came last
            await here.sync()


async def test_guests_reach_out_and_are_reached_at_their_floating_ips(ground: Ground) -> None:  # noqa: F811
    async with cloud(ground) as it:
        assert isinstance(it.one.engine.places["port-fa"], Local)
        assert isinstance(it.one.engine.places["port-fc"], Remote)
        assert isinstance(it.two.engine.places["port-fc"], Local)
        for vm in ("a", "b", "c"):
            for target in ("203.0.113.1", "192.0.2.9"):
                assert await it.pings(vm, target), (vm, target)
            assert await it.pings(it.gateway, IPS[vm]), vm
        assert await it.pings("a", "203.0.113.1", "-s", "1400", "-M", "do")
        shown = await it.run("a", "ping", "-n", "-c", "1", "192.0.2.9")
        assert "ttl=63" in shown, shown
        for vm, target in (("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("a", "a")):
            assert await it.pings(vm, IPS[target]), (vm, target)
        assert "203.0.113.61" not in await it.run("b", "ip", "neigh"), "it goes by the router"
        learnt = it.one.replica.all(Neighbour)
        assert [neighbour.address for neighbour in learnt] == ["203.0.113.1"]
        assert f"lladdr {FLOATING['a'][1].mac}" in await it.run(it.gateway, "ip", "neigh", "show", IPS["a"])


async def test_its_policy_limits_what_it_sends_and_gets_and_its_guest_in_nothing_else(ground: Ground) -> None:  # noqa: F811
    async with cloud(ground) as it:
        row, _ = FLOATING["a"]
        await it.now(worlds.policy("gold", egress=LIMIT, ingress=DOUBLE), replace(row, qos="gold"))
        assert await it.pings("a", "203.0.113.1")
        assert await it.pings("a", B.ips[0])
        assert 0.6 < share(LIMIT, await send(it.vms["a"], it.gateway, "203.0.113.1")) < 1.15
        assert 0.6 < share(DOUBLE, await send(it.gateway, it.vms["a"], IPS["a"])) < 1.15
        sent, received, _ = await send(it.vms["a"], it.vms["b"], B.ips[0])
        assert received > 0.7 * sent, "within its network it is no floating IP"


async def test_errors_come_through_in_both_directions_as_if_nothing_were_translated(ground: Ground) -> None:  # noqa: F811
    """Linux tells a socket of an error only if the quoted packet is the socket's own."""
    async with cloud(ground) as it:
        refused = (
            "import socket; s = socket.socket(type=2); s.connect(('{}', 9)); s.settimeout(2); s.send(b'x'); s.recv(9)"
        )
        for vm, target in (("a", "203.0.113.1"), (it.gateway, IPS["a"]), ("a", IPS["b"]), ("c", IPS["a"])):
            shown = await it.run(vm, "python3", "-c", refused.format(target))
            assert "ConnectionRefusedError" in shown, (vm, target, shown)
        shown = await it.run(it.gateway, "ping", "-n", "-c", "1", "-W", "2", "-t", "1", IPS["a"])
        assert f"From {IPS['a']} " in shown and "Time to live exceeded" in shown, shown  # noqa: PT018
        shown = await it.run("a", "ping", "-n", "-c", "1", "-W", "2", "-t", "1", "192.0.2.9")
        assert "From 10.0.0.1 " in shown, shown
        shown = await it.run(it.gateway, "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1450", IPS["a"])
        assert "mtu = 1442" in shown or "mtu=1442" in shown, shown
        size = (
            "import socket, time; s = socket.socket(type=2); s.setsockopt(0, 10, 2); s.connect(('{}', 9));"
            " s.send(b'x' * 1450); time.sleep(1)"
        )
        await it.run(it.gateway, "python3", "-c", size.format(IPS["b"]))
        assert "mtu 1442" in await it.run(it.gateway, "ip", "route", "get", IPS["b"]), "the quoted packet was its own"


async def test_a_floating_ip_moves_between_ports_and_chassis_and_is_announced(ground: Ground) -> None:  # noqa: F811
    async with cloud(ground) as it:
        row, own = FLOATING["a"]
        target = row.address
        assert await it.pings(it.gateway, target)
        inside(
            it.gateway, "ip", "neigh", "replace", target, "lladdr", "02:bd:00:00:00:00", "dev", "eth0", "nud", "stale"
        )
        for port, others in ((C, "b"), (B, "c"), (A, "c")):
            free = worlds.floating(f"f{port.id}", port.key + 50, IPS[port.id])
            moved = replace(row, fixed_port=port.id, fixed_ip=port.ips[0])
            await it.now(*(each for both in FLOATING.values() for each in both), *free, moved)
            here = it.two if port.chassis == "h2" else it.one
            there = it.one if here is it.two else it.two
            assert isinstance(here.engine.places[own.id], Local)
            assert isinstance(there.engine.places[own.id], Remote)
            for vm in (it.gateway, others):
                assert await it.pings_soon(vm, target), (port.id, vm)
            assert own.mac in await it.run(it.gateway, "ip", "neigh", "show", target)
        await it.now(replace(row, router=None, fixed_port=None, fixed_ip=None))
        assert not await it.pings(it.gateway, target)
        assert own.id not in it.one.engine.places
        assert await it.pings_soon("a", "203.0.113.1"), "now under its router's address"


async def test_a_gateway_that_is_replaced_is_followed(ground: Ground) -> None:  # noqa: F811
    """It tells of itself by an announcement, as routers do that take over for others."""
    async with cloud(ground) as it:
        assert await it.pings("a", "203.0.113.1")
        await it.one.sync()  # the first packet waited for the answer, not for the flow that hears announcements
        inside(it.gateway, "sysctl", "-q", "net.ipv4.conf.eth0.arp_notify=1")
        inside(it.gateway, "ip", "link", "set", "eth0", "address", "02:99:00:00:00:01")
        for _ in range(50):
            if {neighbour.mac for neighbour in it.one.replica.all(Neighbour)} == {"02:99:00:00:00:01"}:
                break
            await asyncio.sleep(0.1)
        assert {neighbour.mac for neighbour in it.one.replica.all(Neighbour)} == {"02:99:00:00:00:01"}
        assert await it.pings("a", "203.0.113.1")


async def test_a_tcp_connection_made_again_at_once_from_the_same_port_harms_nobody(ground: Ground) -> None:  # noqa: F811
    """Such a guest can end Open vSwitch 3.1 in user space where ``ct(nat)`` is used wrongly (decision 25)."""
    serve = "import socket; s = socket.create_server(('', 7)); print(flush=True)\nwhile True: s.accept()[0].close()"
    again = (
        "import socket\nfor _ in range(9):\n s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('', 5555));"
        " s.setsockopt(1, 13, b'\\1\\0\\0\\0\\0\\0\\0\\0'); s.connect(('203.0.113.1', 7)); s.close()\nprint('made')"
    )
    async with cloud(ground) as it:
        command = ("ip", "netns", "exec", it.gateway, "python3", "-c", serve)
        server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert await server.stdout.readline() == b"\n", "it listens"
            done = await asyncio.to_thread(inside, it.vms["a"], "python3", "-c", again, timeout=120)
            assert done.stdout == "made\n", done.stderr
        finally:
            server.kill()
            await server.wait()
        assert await it.pings("a", "203.0.113.1")


async def test_a_controller_that_starts_anew_knows_the_neighbours_of_the_one_before(ground: Ground) -> None:  # noqa: F811
    async with cloud(ground) as it:
        assert await it.pings("a", "203.0.113.1")
        await it.one.sync()  # the first packet waited for the answer, not for the flow
        before = it.one.flows()
        second = TestChassis(it.one.vswitch, it.one.me)
        running = asyncio.create_task(second.switch.run())
        try:
            async with asyncio.timeout(20):
                while not (second.switch.connected and second.switch.ovsdb_in_sync):
                    await asyncio.sleep(0.05)
            second.load(*ROWS)
            second.neighbours.begin()
            await second.sync()
            assert second.replica.all(Neighbour) == it.one.replica.all(Neighbour) != ()
            assert second.flows() == before
        finally:
            running.cancel()
