"""Routers' gateways on real Open vSwitches: guests without floating IPs, forwarded ports, and who takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from msgspec.structs import replace
from test_dnat import HOSTS, PORTS, Cloud, cloud
from test_provider import Ground, ground  # noqa: F401 - ground is a fixture
from test_qos import DOUBLE, LIMIT, send, share

from dragonflow.apps.wiring import gateway_chassis
from dragonflow.controller.limits import Limiter
from dragonflow.lab import system
from dragonflow.model import Alive, FixedIP, LogicalPort, LogicalSwitch, PortForwarding, RouterGateway
from dragonflow.switch.unixctl import Unixctl
from dragonflow.testing import worlds

ADDRESS, FORWARDED = "203.0.113.2", "203.0.113.70"
B_IP, C_IP = "10.0.0.12", "10.0.0.13"

FORWARDING = worlds.floating(
    "pf",
    70,
    FORWARDED,
    router="r",
    forwardings=(
        PortForwarding("tcp", 8080, 8080, "c", "10.0.0.13", 80, 80),
        PortForwarding("tcp", 9000, 9003, "a", "10.0.0.11", 9000, 9003),
        PortForwarding("udp", 5000, 5001, "c", "10.0.0.13", 6000, 6001),
    ),
)
GATEWAY = worlds.gateway("r", 22, FixedIP("ext4", ADDRESS))
ROWS = (
    *(*HOSTS, worlds.network(), worlds.subnet("v4", "10.0.0.0/24"), *worlds.OUTSIDE),
    worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext")),
    worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")),
    *(GATEWAY, *PORTS, *FORWARDING, *(Alive(id=host.id, since=0.0) for host in HOSTS)),
)


def served_on(it: Cloud) -> str:
    """The chassis that has the gateway, in everybody's opinion."""
    found = set()
    for here in (it.one, it.two):
        port, network = here.replica.get(LogicalPort, "r-ext"), here.replica.get(LogicalSwitch, "ext")
        assert port is not None
        assert network is not None
        found.add(gateway_chassis(port, network, here.replica, here.me.chassis))
    (chassis,) = found
    assert chassis is not None
    assert [here.me.chassis for here in (it.one, it.two) if "r-ext" in here.engine.serving] == [chassis]
    return chassis


@asynccontextmanager
async def region(ground: Ground, *more: object) -> AsyncIterator[Cloud]:  # noqa: F811
    async with cloud(ground, (*ROWS, *more)) as it:
        yield it


async def says(it: Cloud, vm: str, port: int, protocol: str = "tcp") -> asyncio.subprocess.Process:
    """A server that tells who asks (of ``ttl``: what is left of the lifetime, IP_RECVTTL); returns when it listens."""
    program = {
        "tcp": "s = socket.create_server(('', {0}))\nprint(flush=True)\n"
        "while True:\n c, who = s.accept(); c.sendall(f'{{who[0]}} {0}'.encode()); c.close()",
        "ttl": "s = socket.socket(type=2); s.bind(('', {0})); s.setsockopt(0, 12, 1)\nprint(flush=True)\n"
        "while True:\n _, told, _, who = s.recvmsg(99, 99); s.sendto(str(told[0][2][0]).encode(), who)",
        "udp": "s = socket.socket(type=2); s.bind(('', {0}))\nprint(flush=True)\n"
        "while True:\n _, who = s.recvfrom(99); s.sendto(f'{{who[0]}} {0}'.encode(), who)",
    }[protocol].format(port)
    name = it.vms.get(vm, vm)
    command = ("ip", "netns", "exec", name, "python3", "-c", "import socket\n" + program)
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    await server.stdout.readline()
    return server


async def asks(it: Cloud, vm: str, address: str, port: int, protocol: str = "tcp", *, source: int = 0) -> str:
    """What a server answers, or what goes wrong."""
    kind = 1 if protocol == "tcp" else 2
    program = (
        f"import socket; s = socket.socket(type={kind}); s.settimeout(2); s.setsockopt(1, 2, 1)\n"
        f"s.bind(('', {source})); s.connect(('{address}', {port}))\n"
        + ("s.send(b'?')\n" if protocol == "udp" else "")
        + "print(s.recv(99).decode())"
    )
    return (await it.run(vm, "python3", "-c", program)).strip().rsplit("\n", 1)[-1]


async def test_guests_without_a_floating_ip_reach_out_under_their_routers_address(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        chassis = served_on(it)
        servers = [await says(it, it.gateway, 7), await says(it, it.gateway, 8, "ttl")]
        try:
            for vm in ("a", "b", "c"):
                for target in ("203.0.113.1", "192.0.2.9"):
                    assert await it.pings_soon(vm, target), (vm, target, chassis)
                shown = await it.run(vm, "ping", "-n", "-c", "1", "192.0.2.9")
                assert "ttl=63" in shown, (vm, shown)
                assert await asks(it, vm, "192.0.2.9", 7) == f"{ADDRESS} 7", (vm, chassis)
                shown = await it.run(vm, "ping", "-n", "-c", "1", "-W", "2", "-t", "1", "192.0.2.9")
                assert "From 10.0.0.1 " in shown, shown
                assert await asks(it, vm, "203.0.113.1", 8, "udp") == "63", vm
                assert await it.pings(vm, ADDRESS), "the router answers its guests"
        finally:
            for server in servers:
                server.terminate()
                await server.wait()
        assert await it.pings(it.gateway, ADDRESS), "and others"
        shown = await it.run(it.gateway, "ip", "neigh", "show", ADDRESS)
        assert GATEWAY.mac in shown, shown


async def test_errors_belong_to_their_connections(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        for vm in ("a", "c"):
            assert await it.pings_soon(vm, "192.0.2.9")
            refused = (
                "import socket; s = socket.socket(type=2); s.connect(('203.0.113.1', 9));"
                " s.settimeout(2); s.send(b'x'); s.recv(9)"
            )
            shown = await it.run(vm, "python3", "-c", refused)
            assert "ConnectionRefusedError" in shown, (vm, shown)
        server = await says(it, "c", 80)
        try:
            size = (
                "import socket, time; s = socket.create_connection(('{}', 8080)); t = socket.socket(type=2);"
                " t.setsockopt(0, 10, 2); t.connect(('{}', 5000)); t.send(b'x' * 1450); time.sleep(1)"
            )
            await it.run(it.gateway, "python3", "-c", size.format(FORWARDED, FORWARDED))
            shown = await it.run(it.gateway, "ip", "route", "get", FORWARDED)
            assert "mtu 1442" in shown, "the quoted packet was its own"
        finally:
            server.terminate()
            await server.wait()


async def test_who_sends_to_a_machine_outside_that_is_not_there_is_told(ground: Ground) -> None:  # noqa: F811
    """Whichever chassis asked in vain, under whichever address: a floating IP's, or the gateway's."""
    own = worlds.floating("fb", 71, "203.0.113.71", router="r", fixed_port="b", fixed_ip=B_IP)
    async with region(ground, *own) as it:
        shown = await asyncio.gather(
            *(it.run(vm, "ping", "-n", "-c", "1", "-W", "9", "203.0.113.99") for vm in ("a", "b", "c"))
        )
        for said in shown:
            assert f"From {ADDRESS} " in said, shown
            assert "Destination Host Unreachable" in said, shown


async def test_ports_are_forwarded_for_those_outside_and_inside(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        servers = [await says(it, "c", 80), await says(it, "a", 9002), await says(it, "c", 6001, "udp")]
        try:
            assert await it.pings_soon(it.gateway, FORWARDED)
            assert await asks(it, it.gateway, FORWARDED, 8080) == "203.0.113.1 80"
            assert await asks(it, it.gateway, FORWARDED, 9002) == "203.0.113.1 9002"
            assert await asks(it, it.gateway, FORWARDED, 5001, "udp") == "203.0.113.1 6001"
            for vm in ("a", "b", "c"):
                assert await asks(it, vm, FORWARDED, 8080) == f"{ADDRESS} 80", vm
                assert await asks(it, vm, FORWARDED, 9002) == f"{ADDRESS} 9002", vm
                assert await asks(it, vm, FORWARDED, 5001, "udp") == f"{ADDRESS} 6001", vm
            assert "TimeoutError" in await asks(it, it.gateway, FORWARDED, 8081)
            assert await it.pings("c", "192.0.2.9"), "its guests still reach out"
        finally:
            for server in servers:
                server.terminate()
                await server.wait()


async def test_another_chassis_takes_over_and_says_so(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        chassis = served_on(it)
        assert await it.pings_soon(it.gateway, ADDRESS)
        for vm in ("a", "b", "c"):
            assert await it.pings_soon(vm, "192.0.2.9")
        lives = Alive(id=chassis, since=0.0)
        lost, survivor = (it.one, it.two) if chassis == "h1" else (it.two, it.one)
        assert lost.vswitch.netns is not None
        system.ip(
            lost.vswitch.netns, "link set underlay down"
        )  # while its data path is heard, nobody holds it for dead
        await survivor.now(gone=(lives,))
        await survivor.until(lambda: "r-ext" in survivor.engine.serving)
        inside = "c" if survivor is it.two else "a"
        assert await it.pings_soon(it.gateway, ADDRESS)
        assert await it.pings_soon(inside, "192.0.2.9")
        system.ip(lost.vswitch.netns, "link set underlay up")
        await survivor.now(lives)
        await survivor.until(lambda: "r-ext" not in survivor.engine.serving)
        assert served_on(it) == chassis


async def test_a_tcp_connection_made_again_at_once_from_the_same_port_harms_nobody(ground: Ground) -> None:  # noqa: F811
    """Such a guest can end Open vSwitch 3.1 in user space where it is told to translate an address to itself."""
    async with region(ground) as it:
        assert await it.pings_soon("a", "192.0.2.9")
        servers = [await says(it, it.gateway, 7), await says(it, "c", 80)]
        try:
            for _ in range(6):
                assert await asks(it, "a", "192.0.2.9", 7, source=5555) == f"{ADDRESS} 7"
                assert await asks(it, "c", "192.0.2.9", 7, source=5555) == f"{ADDRESS} 7"
                assert await asks(it, it.gateway, FORWARDED, 8080, source=5556) == "203.0.113.1 80"
                assert await asks(it, "b", FORWARDED, 8080, source=5557) == f"{ADDRESS} 80"
        finally:
            for server in servers:
                server.terminate()
                await server.wait()


class Talk:
    """Somebody who asks a server again and again, from one port, and what it hears: ``-`` is nothing for 0.2 s."""

    PROGRAM = """
import socket, time
s = socket.socket(type=2); s.settimeout(0.2); s.connect(('{}', {}))
while True:
    try:
        s.send(b'?'); print(s.recv(99).decode(), flush=True); time.sleep(0.002)
    except OSError:
        print('-', flush=True)
"""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.heard: list[str] = []
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def begin(cls, it: Cloud, vm: str, address: str, port: int) -> Talk:
        command = ("ip", "netns", "exec", it.vms.get(vm, vm), "python3", "-c", cls.PROGRAM.format(address, port))
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.heard.append(line.decode().strip())

    async def hears(self, what: str, times: int = 20) -> bool:
        """Whether it hears that, ``times`` times in a row, sooner or later."""
        begin = len(self.heard)
        with suppress(TimeoutError):
            async with asyncio.timeout(15):
                while len(self.heard) < begin + times or set(self.heard[-times:]) != {what}:
                    await asyncio.sleep(0.05)
                return True
        return False

    async def end(self) -> None:
        self._process.terminate()
        await self._process.wait()
        await self._listening


async def test_connections_that_are_translated_otherwise_now_are_cut_and_others_go_on(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it, AsyncExitStack() as stack:
        for vm, port in (("c", 6000), ("c", 6001), ("b", 6002), (it.gateway, 7)):
            server = await says(it, vm, port, "udp")
            stack.push_async_callback(server.wait)
            stack.callback(server.terminate)
        talks = [
            await Talk.begin(it, *who)
            for who in ((it.gateway, FORWARDED, 5000), (it.gateway, FORWARDED, 5001), ("a", "203.0.113.1", 7))
        ]
        for talk in talks:
            stack.push_async_callback(talk.end)
        changed, stays, outward = talks
        tcp, other, last = FORWARDING[0].forwardings
        to_c, to_b = (
            PortForwarding("udp", 5000, 5000, vm, ip, to, to) for vm, ip, to in (("c", C_IP, 6000), ("b", B_IP, 6002))
        )
        assert await changed.hears("203.0.113.1 6000")
        assert await stays.hears("203.0.113.1 6001")
        assert await outward.hears(f"{ADDRESS} 7")
        went_on, sent = len(stays.heard), len(outward.heard)
        last = replace(last, external_first=5001, internal_first=6001)
        for now, heard in (((), "-"), ((tcp, other, to_c), "203.0.113.1 6000"), ((to_b,), "203.0.113.1 6002")):
            await it.now(replace(FORWARDING[0], forwardings=(last, *now)))
            assert await changed.hears(heard, 6), (now, changed.heard[-9:])
        assert await stays.hears("203.0.113.1 6001")
        assert "-" not in stays.heard[went_on:]
        assert set(outward.heard[sent:]) == {f"{ADDRESS} 7"}
        await it.now(replace(GATEWAY, fixed_ips=(FixedIP("ext4", "203.0.113.3"),)))
        assert await outward.hears("203.0.113.3 7")
        assert "-" not in stays.heard[went_on:]


async def test_policies_limit_what_goes_under_the_gateways_address_and_what_is_forwarded(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        assert await it.pings_soon("a", "203.0.113.1")
        gateway = RouterGateway("r-ext", "ext", qos="gold")
        floating = replace(
            FORWARDING[0], qos="silver", forwardings=(PortForwarding("udp", 5000, 5000, "c", C_IP, 5000, 5000),)
        )
        policies = worlds.policy("gold", egress=LIMIT), worlds.policy("silver", ingress=DOUBLE)
        await it.now(*policies, worlds.router("r", 1, "net", gateway=gateway), floating)
        assert 0.6 < share(LIMIT, await send(it.vms["a"], it.gateway, "203.0.113.1")) < 1.15
        assert 0.6 < share(DOUBLE, await send(it.gateway, it.vms["c"], FORWARDED)) < 1.15
        await it.now(worlds.policy("gold", ingress=LIMIT), worlds.policy("silver", egress=LIMIT))
        sent, received, _ = await send(it.vms["a"], it.gateway, "203.0.113.1")
        assert received > 0.7 * sent, "it limits the other direction now"


FAR, OWN = worlds.network("far", 9), "203.0.113.4"
D = worlds.port("d", 14, on="h1", net="far", fixed_ips=(FixedIP("v4-far", "10.0.0.14"),))
OTHER = (
    *(FAR, worlds.subnet("v4-far", "10.0.0.0/24", "far"), D),
    worlds.router("q", 2, "far", gateway=RouterGateway("q-ext", "ext")),
    worlds.interface("q", 23, FixedIP("v4-far", "10.0.0.1"), net="far"),
    worlds.gateway("q", 24, FixedIP("ext4", OWN)),
)


async def limits(it: Cloud, shown: str) -> bool:
    """Whether the gateway's chassis has, sooner or later, this limit."""
    here = it.one if served_on(it) == "h1" else it.two
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            while shown not in here.vswitch.appctl("dpctl/ct-get-limits", "netdev@ovs-netdev"):
                await asyncio.sleep(0.05)
            return True
    return False


@asynccontextmanager
async def limited(it: Cloud, most: int) -> AsyncIterator[list[Limiter]]:
    """Limits of connections are kept on both chassis, as by their controllers."""
    made = []
    for here in (it.one, it.two):
        control = str(here.vswitch.directory / "ovs-vswitchd.ctl")
        made.append(Limiter(Unixctl(f"unix:{here.vswitch.db_sock}", control), "netdev", router=most, port=0))
        made[-1].want(here.switch.zones, here.switch.connections)
    running = [asyncio.create_task(limiter.run()) for limiter in made]
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def test_a_router_has_no_more_connections_than_it_may_and_others_have_theirs(ground: Ground) -> None:  # noqa: F811
    async with region(ground, *OTHER) as it, AsyncExitStack() as stack:
        await it.plug(D, it.one)
        for vm, port in ((it.gateway, 7), ("c", 6000)):
            server = await says(it, vm, port, "udp")
            stack.push_async_callback(server.wait)
            stack.callback(server.terminate)
        assert await it.pings_soon("d", "203.0.113.1")
        limiters = await stack.enter_async_context(limited(it, 3))
        assert await limits(it, "zone=1,limit=3,")
        leak = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", it.gateway, "tcpdump", "-n", "-l", "-c", "1", "-i", "any", "src net 10.0.0.0/24"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        stack.push_async_callback(leak.wait)
        stack.callback(leak.terminate)
        assert leak.stderr is not None
        while b"listening" not in await leak.stderr.readline():
            pass
        talk = await Talk.begin(it, "a", "203.0.113.1", 7)
        stack.push_async_callback(talk.end)
        assert await talk.hears(f"{ADDRESS} 7")
        began = len(talk.heard)
        answers = [await asks(it, vm, "203.0.113.1", 7, "udp") for vm in ("a", "c", "b")]
        assert answers.count(f"{ADDRESS} 7") == 2, answers
        assert await asks(it, it.gateway, FORWARDED, 5000, "udp") != "203.0.113.1 6000", "forwarded ports count, too"
        assert await asks(it, "d", "203.0.113.1", 7, "udp") == f"{OWN} 7", "another router's are its own"
        assert set(talk.heard[began:]) == {f"{ADDRESS} 7"}
        assert leak.returncode is None, "what isn't translated doesn't leave"
        for here, limiter in zip((it.one, it.two), limiters, strict=True):
            before = here.switch.connections
            here.vswitch.restart_vswitchd(kill=True)
            async with asyncio.timeout(20):
                while here.switch.connections == before:
                    await asyncio.sleep(0.05)
            limiter.want(here.switch.zones, here.switch.connections)
        assert await limits(it, "zone=1,limit=3,"), "a new ovs-vswitchd has forgotten it"


async def test_without_snat_packets_leave_as_they_are_from_each_chassis(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        gateway = RouterGateway("r-ext", "ext", enable_snat=False)
        await it.now(worlds.router("r", 1, "net", gateway=gateway))
        await it.run(it.gateway, "ip", "route", "add", "10.0.0.0/24", "via", ADDRESS)
        servers = [await says(it, it.gateway, 7), await says(it, "c", 80), await says(it, "a", 9002)]
        try:
            for vm, ip in (("a", "10.0.0.11"), ("c", "10.0.0.13")):
                assert await it.pings_soon(vm, "192.0.2.9")
                assert await asks(it, vm, "192.0.2.9", 7) == f"{ip} 7"
                assert await it.pings_soon(it.gateway, ip)
            assert await asks(it, it.gateway, FORWARDED, 8080) == "203.0.113.1 80"
            assert await asks(it, it.gateway, FORWARDED, 9002) == "203.0.113.1 9002"
        finally:
            for server in servers:
                server.terminate()
                await server.wait()


async def test_chassis_without_a_way_outside_send_through_the_one_that_has(ground: Ground) -> None:  # noqa: F811
    """Then nothing else can be the gateway; and what isn't translated takes the same way."""
    async with cloud(ground, ROWS, mapped=("h1",)) as it:
        assert served_on(it) == "h1"
        assert await it.pings_soon("c", "192.0.2.9")
        assert await it.pings_soon("a", "192.0.2.9")
        gateway = RouterGateway("r-ext", "ext", enable_snat=False)
        await it.now(worlds.router("r", 1, "net", gateway=gateway))
        await it.run(it.gateway, "ip", "route", "add", "10.0.0.0/24", "via", ADDRESS)
        assert await it.pings_soon("c", "192.0.2.9")
        assert await it.pings_soon(it.gateway, "10.0.0.13")
