"""Chassis with addresses of their own in an external network, on real Open vSwitches: whose packets leave there, and return."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from chassis import BRIDGE, TestChassis, chassis
from frames import ethernet, udp
from msgspec.structs import replace
from test_dnat import HOSTS, PORTS, Cloud, cloud
from test_provider import Ground, ground, machine  # noqa: F401 - ground is a fixture
from test_snat import ADDRESS, FORWARDED, FORWARDING, ROWS, Talk, asks, says, served_on

from dragonflow.apps.l3 import L3
from dragonflow.apps.wiring import chassis_mac
from dragonflow.controller.view import Me
from dragonflow.model import FixedIP, RouterGateway
from dragonflow.testing import worlds

OWN = {"h1": ("203.0.113.11",), "h2": ("203.0.113.12",)}
TWIN = worlds.port("z", 14, on="h1", net="other", fixed_ips=(FixedIP("o4", "10.0.0.11"),))
"""Another tenant's, with the address of port a on the same chassis."""

TENANT = (
    worlds.network("other", 2),
    worlds.subnet("o4", "10.0.0.0/24", "other"),
    worlds.router("q", 2, "other", gateway=RouterGateway("q-ext", "ext")),
    worlds.interface("q", 23, FixedIP("o4", "10.0.0.1"), net="other"),
    worlds.gateway("q", 24, FixedIP("ext4", "203.0.113.4")),
    TWIN,
)
FLOATING = worlds.floating("fb", 62, "203.0.113.62", router="r", fixed_port="b", fixed_ip="10.0.0.12")
PLAIN = tuple(row for row in ROWS if row not in FORWARDING)
GUESTS = {"a": OWN["h1"], "b": OWN["h1"], "z": OWN["h1"], "c": OWN["h2"]}


@asynccontextmanager
async def region(
    ground: Ground,  # noqa: F811
    *more: object,
    own: dict[str, tuple[str, ...]] = OWN,
) -> AsyncIterator[Cloud]:
    async with cloud(ground, (*PLAIN, *TENANT, *more), ports=(*PORTS, TWIN), own=own) as it:
        yield it


@asynccontextmanager
async def serving(*servers: asyncio.subprocess.Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.terminate()
            await server.wait()


async def test_guests_leave_from_their_own_chassis_under_its_address(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        async with serving(await says(it, it.gateway, 7), await says(it, it.gateway, 8, "ttl")):
            for vm, (address,) in GUESTS.items():
                for target in ("203.0.113.1", "192.0.2.9"):
                    assert await it.pings_soon(vm, target), (vm, target)
                shown = await it.run(vm, "ping", "-n", "-c", "1", "192.0.2.9")
                assert "ttl=63" in shown, (vm, shown)
                assert await asks(it, vm, "192.0.2.9", 7) == f"{address} 7"
                assert await asks(it, vm, "203.0.113.1", 8, "udp") == "63"
                shown = await it.run(vm, "ping", "-n", "-c", "1", "-W", "2", "-t", "1", "192.0.2.9")
                assert "From 10.0.0.1 " in shown, shown
            answers = await asyncio.gather(*(asks(it, vm, "192.0.2.9", 7, source=5555) for vm in GUESTS))
            assert answers == [f"{address} 7" for (address,) in GUESTS.values()], "the same ports at the same time"
        for chassis, (address,) in OWN.items():
            assert await it.pings(it.gateway, address), "the address itself answers"
            shown = await it.run(it.gateway, "ip", "neigh", "show", address)
            assert chassis_mac(chassis) in shown, shown
        assert await it.pings(it.gateway, ADDRESS), "so do the routers'"


LATER = """
import os, select, socket, sys
s = socket.socket(type=2); s.bind(("", 7007)); print(flush=True)
_, who = s.recvfrom(99)
s.sendto(b"now", who); sys.stdin.readline()
s.connect(who); s.setsockopt(0, 10, 2); s.settimeout(3)
if {ttl}: s.setsockopt(0, 2, {ttl}); s.setsockopt(0, 11, 1)
s.send(b"x" * {size})
try: s.recv(9)
except OSError as error: print(os.strerror(error.errno) if error.errno else "nothing", flush=True)
"""
"""A server that answers once, and when told so tries again, now with a lifetime or a size; it prints what error comes back."""


async def tried_again(it: Cloud, vm: str, *, ttl: int = 0, size: int = 1) -> str:
    """What comes back to a server outside that sends to a guest whose socket is gone."""
    command = ("ip", "netns", "exec", it.gateway, "python3", "-c", LATER.format(ttl=ttl, size=size))
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    async with serving(server):
        assert server.stdin is not None
        assert server.stdout is not None
        await server.stdout.readline()
        assert await asks(it, vm, "203.0.113.1", 7007, "udp") == "now"
        server.stdin.write(b"\n")
        return (await server.stdout.readline()).decode().strip()


async def test_errors_are_translated_with_what_they_quote(ground: Ground) -> None:  # noqa: F811
    async with region(ground) as it:
        refused = (
            "import socket; s = socket.socket(type=2); s.connect(('192.0.2.9', 9));"
            " s.settimeout(2); s.send(b'x'); s.recv(9)"
        )
        for vm, (address,) in GUESTS.items():
            assert await it.pings_soon(vm, "192.0.2.9")
            shown = await it.run(vm, "python3", "-c", refused)
            assert "ConnectionRefusedError" in shown, (vm, shown)
            assert await tried_again(it, vm) == "Connection refused", "the guest's word"
            assert await tried_again(it, vm, ttl=1) == "No route to host", "the lifetime is over"
            assert await tried_again(it, vm, size=1450) in ("nothing", "Message too long")
            shown = await it.run(it.gateway, "ip", "route", "get", address)
            assert "mtu 1442" in shown, shown
            await it.run(it.gateway, "ip", "route", "flush", "cache")
        there_is_nobody = (it.run(vm, "ping", "-n", "-c", "1", "-W", "9", "203.0.113.99") for vm in GUESTS)
        for vm, shown in zip(GUESTS, await asyncio.gather(*there_is_nobody), strict=True):
            teller = "203.0.113.4" if vm == "z" else ADDRESS
            assert f"From {teller} icmp_seq=1 Destination Host Unreachable" in shown, (vm, shown)


async def test_a_5_tuple_used_again_at_once_harms_nobody(ground: Ground) -> None:  # noqa: F811
    """Such a guest can end Open vSwitch 3.1 in user space where it is told to translate an address to itself."""
    async with region(ground) as it, serving(await says(it, it.gateway, 7)):
        for vm in GUESTS:
            assert await it.pings_soon(vm, "192.0.2.9")
        for _ in range(6):
            for vm, (address,) in GUESTS.items():
                assert await asks(it, vm, "192.0.2.9", 7, source=5555) == f"{address} 7"
        for port in (
            80,
            5555,
        ):  # to the address that it has itself, from the same port too: then it is connected to itself
            for _ in range(3):
                found = await asks(it, "a", *OWN["h1"], port, source=5555)
                assert "TimeoutError" in found or (port == 5555 and "Cannot assign" in found), found
        assert await asks(it, "a", "192.0.2.9", 7, source=5555) == f"{OWN['h1'][0]} 7"


async def test_what_others_serve_is_found_from_there(ground: Ground) -> None:  # noqa: F811
    """Guests with a forwarded port leave by the gateway, where their connections come in; those with a floating IP, under it."""
    async with region(ground, *FORWARDING, *FLOATING) as it:
        served_on(it)
        async with serving(
            *[await says(it, it.gateway, 7), await says(it, "c", 80), await says(it, "a", 9002), await says(it, "b", 7)]
        ):
            for vm, address in (("a", ADDRESS), ("c", ADDRESS), ("b", "203.0.113.62"), ("z", *OWN["h1"])):
                assert await it.pings_soon(vm, "192.0.2.9")
                assert await asks(it, vm, "192.0.2.9", 7) == f"{address} 7", vm
            assert await asks(it, it.gateway, FORWARDED, 8080) == "203.0.113.1 80"
            for target, port in ((FORWARDED, 8080), (FORWARDED, 9002), ("203.0.113.62", 7)):
                told = f"{OWN['h1'][0]} {80 if port == 8080 else port}"
                for _ in range(5):
                    if (answer := await asks(it, "z", target, port)) == told:
                        break
                assert answer == told, (target, port)


async def test_a_chassis_without_an_address_hands_over(ground: Ground) -> None:  # noqa: F811
    async with region(ground, own={"h1": OWN["h1"]}) as it, serving(await says(it, it.gateway, 7)):
        for vm, address in (("a", *OWN["h1"]), ("z", *OWN["h1"]), ("c", ADDRESS)):
            assert await it.pings_soon(vm, "192.0.2.9")
            assert await asks(it, vm, "192.0.2.9", 7) == f"{address} 7", vm
        await it.now(worlds.router("q", 2, "other", gateway=RouterGateway("q-ext", "ext", enable_snat=False)))
        await it.run(it.gateway, "ip", "route", "add", "10.0.0.11/32", "via", "203.0.113.4")
        assert await it.pings_soon("z", "192.0.2.9")
        assert await asks(it, "z", "192.0.2.9", 7) == "10.0.0.11 7", "not translated at all"


def tracked(here: TestChassis, zone: int = 65535) -> set[str]:
    """Who began the connections of a zone."""
    shown = here.vswitch.appctl("dpctl/dump-conntrack", f"zone={zone}")
    return set(re.findall(r"orig=\(src=([0-9.]+)", shown))


def ended(here: TestChassis) -> int:
    """Packets that came back from tracking as they were, and went no further."""
    (flow,) = re.findall(rf"table={L3.departure.number},.*priority=13,.*", here.vswitch.ofctl("dump-flows", BRIDGE))
    return int(re.findall(r"n_packets=(\d+)", flow)[0])


async def test_connections_end_with_their_guest_and_at_their_limit(ground: Ground) -> None:  # noqa: F811
    """So whoever gets its port's number next gets none of them; and no number ever leaves."""
    async with region(ground) as it, serving(await says(it, it.gateway, 7)):
        for vm in ("a", "z"):
            assert await it.pings_soon(vm, "192.0.2.9")
        assert tracked(it.one) == {"240.0.0.11", "240.0.0.14"}
        assert ended(it.one) == 0
        it.one.vswitch.appctl("dpctl/ct-set-limits", "zone=65535,limit=1")
        answers = [await asks(it, "z", "192.0.2.9", 7) for _ in range(3)]  # it counts those that begin from now on
        assert "TimeoutError" in answers[-1], answers
        assert ended(it.one) > 0
        await it.now(gone=(PORTS[0],))
        async with asyncio.timeout(10):
            while tracked(it.one) != {"240.0.0.14"}:
                await asyncio.sleep(0.1)
        await it.now(gone=(PORTS[1], TWIN))  # nobody uses the zone now; a packet on its way then may come after
        it.one.vswitch.appctl("dpctl/ct-del-limits", "zone=65535")
        straggler = ethernet(PORTS[0].mac, TWIN.mac, 0x0800, udp("240.0.0.11", "192.0.2.9", 5000, 7)).hex()
        commit = f"in_port=CONTROLLER,packet={straggler},actions=ct(commit,zone=65535)"
        it.one.vswitch.ofctl("packet-out", BRIDGE, commit)
        assert "240.0.0.11" in tracked(it.one)
        await it.now(PORTS[0])
        assert tracked(it.one) == set(), "emptied before anybody has it again"


async def test_a_chassis_that_loses_its_address_cuts_nothing_else(ground: Ground) -> None:  # noqa: F811
    """With its controller started anew without the option, guests leave by the gateway, which goes on with those it had."""
    gateway, (host, _) = ground.peer("203.0.113.1/24", vlan=200), HOSTS
    forwarding, own = FORWARDING[0].forwardings[1], replace(host, snat_addresses=OWN["h1"])
    forwarding = worlds.floating("pf", 70, FORWARDED, router="r", forwardings=(forwarding,))  # of port a alone
    rows = (*(row for row in (*PLAIN, *TENANT) if row not in HOSTS), *forwarding, *FLOATING, host)
    async with AsyncExitStack() as stack:
        switch = stack.enter_context(machine(ground, host.tunnel_ip))
        it, talks = None, []
        for me in (own, host):
            here = await stack.enter_async_context(chassis(switch, Me.of(me), audited=me is host))
            if it is None:
                it = Cloud(here, here, gateway)
                await here.now(*rows)
                for port in (*PORTS[:2], TWIN):
                    await it.plug(port, here)
            else:
                await here.now(*rows)
            live = asyncio.create_task(here.live())
            stack.callback(live.cancel)
            if me is own:
                server = await says(it, gateway, 7, "udp")
                await stack.enter_async_context(serving(server))
                for vm, address in (("a", ADDRESS), ("b", "203.0.113.62"), ("z", *OWN["h1"])):
                    talks.append(await Talk.begin(it, vm, "203.0.113.1", 7))
                    stack.push_async_callback(talks[-1].end)
                    assert await talks[-1].hears(f"{address} 7")
                assert tracked(here) == {"240.0.0.14"}
                before = [len(talk.heard) for talk in talks]
                live.cancel()
        assert await talks[2].hears("203.0.113.4 7"), "what left by the address leaves by the gateway"
        for talk, at, address in zip(talks, before, (ADDRESS, "203.0.113.62"), strict=False):
            assert await talk.hears(f"{address} 7")
            assert "-" not in talk.heard[at:]
