"""BFD sessions between real Open vSwitches: who is heard, how soon silence is noticed, and that tenants get nothing of it."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chassis import BRIDGE, TestChassis, chassis, inside, reaches
from msgspec.structs import replace
from running import BINDING, NET, PORT, Host, until
from underlay import machine

from dragonflow.apps.wiring import heard, peer_name
from dragonflow.controller.view import Me
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import FixedIP, OvsPort, RouterGateway
from dragonflow.testing import worlds

HOSTS = tuple(
    worlds.chassis(name, f"198.18.9.{number}", bridge_mappings=worlds.MAPPINGS)
    for number, name in ((1, "h1"), (2, "h2"))
)
P1, P2 = worlds.port("p1", 11, on="h1"), worlds.port("p2", 12, on="h2")
ROUTER = worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"))
ROWS = (
    *(worlds.network(), worlds.external(), *HOSTS, P1, P2, ROUTER),
    worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")),
    worlds.gateway("r", 22, FixedIP("ext4", "203.0.113.2")),
)
ADDRESSES = {"h1": "10.0.0.11/24", "h2": "10.0.0.12/24"}


@asynccontextmanager
async def hosts(fabric: str) -> AsyncIterator[tuple[TestChassis, TestChassis]]:
    """The two chassis, with all rows, each heard by the other."""
    async with AsyncExitStack() as stack:
        found = []
        for row in HOSTS:
            switch = stack.enter_context(machine(fabric, row.tunnel_ip))
            found.append(await stack.enter_async_context(chassis(switch, Me.of(row))))
        one, two = found
        for it in found:
            await it.now(*ROWS)
        await one.until(lambda: heard("h2", one.replica) is True)
        await two.until(lambda: heard("h1", two.replica) is True)
        yield one, two


def column(here: TestChassis, of: str, name: str) -> str:
    """A column of the interface that leads to a peer, as the database has it."""
    return here.vswitch.vsctl("get", "Interface", peer_name(of), name).strip()


def ofport(here: TestChassis, name: str) -> int:
    """An interface's OpenFlow port."""
    found = here.replica.get(OvsPort, name)
    assert found is not None
    assert found.ofport is not None
    return found.ofport


async def at_full_pace(here: TestChassis) -> None:
    """Until the other end has said that it sends every 250 ms; before it is up it sends once a second (RFC 5880 §6.8.3)."""
    async with asyncio.timeout(10):
        while "Remote Minimum TX Interval: 250ms" not in await asyncio.to_thread(here.vswitch.appctl, "bfd/show"):
            await asyncio.sleep(0.05)


async def seconds_until(here: TestChassis, peer: str, state: bool) -> float:
    """How long it takes until the peer is heard, or isn't."""
    began = time.monotonic()
    await here.until(lambda: heard(peer, here.replica) is state)
    return time.monotonic() - began


async def test_a_dead_data_path_is_noticed_within_a_second_and_its_return_too(fabric: str) -> None:
    """Of its controller nothing is asked: only ovs-vswitchd is killed. The other side's new one holds nobody for dead."""
    async with hosts(fabric) as (one, two):
        before = await asyncio.to_thread(column, one, "h2", "_uuid")
        await at_full_pace(one)
        await asyncio.to_thread(two.vswitch.stop_vswitchd, kill=True)
        took = await seconds_until(one, "h2", False)
        print(f"noticed after {took:.2f} s")
        assert took < 1.2
        await asyncio.to_thread(two.vswitch.start_vswitchd)
        async with asyncio.timeout(20):
            while not two.switch.connected:
                await asyncio.sleep(0.01)
        await seconds_until(one, "h2", True)
        await seconds_until(two, "h1", True)
        assert await asyncio.to_thread(column, one, "h2", "_uuid") == before, "the same interface all along"


async def test_a_session_takes_none_of_the_tenants_packets_and_lets_none_in(fabric: str) -> None:
    """Packets of a network go from guest to guest beside it. What comes with its VNI is dropped, even if it names a guest."""
    async with hosts(fabric) as (one, two):
        vms = [await here.vm(port, ADDRESSES[here.me.chassis]) for here, port in ((one, P1), (two, P2))]
        assert await asyncio.to_thread(reaches, vms[0], "10.0.0.12")
        before, got = missed(two), received(vms[1])
        stray = f"in_port=LOCAL,packet={UDP},actions=output:{ofport(one, peer_name('h2'))}"
        for _ in range(20):
            await asyncio.to_thread(one.vswitch.ofctl, "packet-out", BRIDGE, stray)
        async with asyncio.timeout(5):
            while missed(two) < before + 20:
                await asyncio.sleep(0.05)
        assert received(vms[1]) == got
        vni = worlds.network().segmentation_id
        whole = (
            f"in_port=LOCAL,packet={UDP},actions="
            f"set_field:{vni}->tun_id,set_field:{HOSTS[1].tunnel_ip}->tun_dst,output:{ofport(one, 'df-geneve')}"
        )
        await asyncio.to_thread(one.vswitch.ofctl, "packet-out", BRIDGE, whole)
        async with asyncio.timeout(5):
            while received(vms[1]) == got:
                await asyncio.sleep(0.05)


UDP = (
    f"{P2.mac}{P1.mac}0800".replace(":", "") + "4500001c000000004011" + "66bb" + "0a00000b0a00000c" + "0001000200080000"
)
"""From one guest to the other."""


def missed(here: TestChassis) -> int:
    """Packets that were dropped because nobody knows where they come from."""
    (line,) = [it for it in here.vswitch.ofctl("dump-flows", BRIDGE, "table=0").splitlines() if "priority=0" in it]
    return int(line.split("n_packets=")[1].split(",")[0])


def received(vm: str) -> int:
    """Packets of IPv4 that the guest got."""
    text = inside(vm, "cat", "/proc/net/snmp").stdout
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["InReceives"])


async def test_sessions_outlive_controllers_and_end_with_their_peer(fabric: str) -> None:
    async with AsyncExitStack() as stack:
        switches = [stack.enter_context(machine(fabric, row.tunnel_ip)) for row in HOSTS]
        two = await stack.enter_async_context(chassis(switches[1], Me.of(HOSTS[1])))
        await two.now(*ROWS)
        async with chassis(switches[0], Me.of(HOSTS[0])) as one:
            await one.now(*ROWS)
            await seconds_until(one, "h2", True)
            await seconds_until(two, "h1", True)
            before = await asyncio.to_thread(column, one, "h2", "_uuid")
        async with chassis(switches[0], Me.of(HOSTS[0])) as one:
            assert heard("h2", one.replica) is True, "what the vswitchd knows, a new controller knows at once"
            await one.now(*ROWS)
            await one.until(lambda: heard("h2", one.replica) is True)
            assert await asyncio.to_thread(column, one, "h2", "_uuid") == before
            assert await asyncio.to_thread(column, one, "h2", "bfd_status:flap_count") == '"1"'
            assert await asyncio.to_thread(column, one, "h2", "bfd:min_rx") == '"250"'
            await one.now(gone=(HOSTS[1],))
            await one.until(lambda: one.replica.get(OvsPort, peer_name("h2")) is None)


def test_operators_see_sessions_in_status_and_metrics(vswitch: VSwitch, tmp_path: Path) -> None:
    """A controller as a process; nobody answers to its session. After a restart the interface is the same."""
    host = Host(vswitch, tmp_path)
    local, other = worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")), replace(P2, generation=1)
    host.write(NET, PORT, BINDING, worlds.external(), HOSTS[1], ROUTER, local, ROWS[-1], other)
    seen = set()
    for _ in range(2):
        with host.controller():
            until(lambda: host.status().get("bfd_sessions", {}).get("h2", "").startswith("never up since "), "h2")
            until(lambda: host.status()["in_sync"], "the controller to be in sync")
            with urllib.request.urlopen(f"http://{host.metrics}/metrics") as answer:
                assert b'dragonflow_bfd_sessions{state="never up"} 1.0' in answer.read()
        seen.add(vswitch.vsctl("get", "Interface", peer_name("h2"), "_uuid"))
    assert len(seen) == 1
