"""Networks stretched over regions, with real packets: each region has rows of its own, and only underlay in common."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from chassis import BRIDGE, TestChassis, chassis, inside, reaches
from msgspec.structs import replace
from running import BINDING, NET, PORT, Host
from running import until as wait
from underlay import machine

from dragonflow.apps.tunnel import tunnel_name
from dragonflow.apps.wiring import remote_peer_name, session
from dragonflow.controller.view import Me
from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import (
    Alive,
    FixedIP,
    LogicalPort,
    OvsPort,
    PortStatus,
    RemoteEnd,
    Row,
    TunnelState,
    remote_chassis,
)
from dragonflow.pipeline import Remote
from dragonflow.store.protocol import Delete, Key, Txn
from dragonflow.testing import worlds

A1, B1, B2 = "198.18.9.1", "198.18.9.2", "198.18.9.3"
ALL = ("geneve", "vxlan", "gre")


def me(name: str, vtep: str) -> Me:
    """A chassis that offers every encapsulation."""
    return Me(chassis=name, tunnel_ip=vtep, tunnel_types=ALL)


@asynccontextmanager
async def hosts(fabric: str, *those: tuple[str, str]) -> AsyncIterator[tuple[TestChassis, ...]]:
    """Chassis by name and VTEP."""
    async with AsyncExitStack() as stack:
        machines = [stack.enter_context(machine(fabric, vtep)) for _, vtep in those]
        yield tuple(
            [
                await stack.enter_async_context(chassis(switch, me(*it)))
                for it, switch in zip(those, machines, strict=True)
            ]
        )


def announced(port: LogicalPort, vtep: str, **end: object) -> LogicalPort:
    """The port as another region has it."""
    return replace(port, chassis=remote_chassis(vtep), remote=RemoteEnd("far", **end))  # type: ignore[arg-type]


def tunnels(here: TestChassis) -> list[str]:
    """The types of the tunnels to other regions that the database has."""
    names = here.vswitch.vsctl("list-ports", BRIDGE).split()
    return sorted(here.vswitch.vsctl("get", "Interface", it, "type").strip() for it in names if it.startswith("df-r"))


def ofport(here: TestChassis, name: str) -> int:
    found = here.replica.get(OvsPort, name)
    assert found is not None
    assert found.ofport is not None
    return found.ofport


def interface(here: TestChassis, vtep: str) -> OvsPort | None:
    """The interface to a remote chassis, if it works."""
    found = here.replica.get(OvsPort, remote_peer_name("geneve", vtep))
    return None if found is None or found.ofport is None else found


async def up(here: TestChassis, *vteps: str, encapsulation: str = "geneve") -> None:
    """Until the tunnels are there and their other ends are heard."""
    for vtep in vteps:
        await here.until(lambda vtep=vtep: session(remote_peer_name(encapsulation, vtep), here.replica) is True)  # type: ignore[misc]


class Ping:
    """Echo requests every 10 ms until ``end``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def begin(cls, vm: str, address: str) -> Ping:
        """From now on."""
        command = ("ip", "netns", "exec", vm, "ping", "-n", "-i", "0.01", address)
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))

    async def end(self) -> tuple[int, int]:
        """How many were answered, and how many were not though a later one was."""
        self._process.send_signal(signal.SIGINT)
        output, _ = await self._process.communicate()
        answered = {int(it) for it in re.findall(r"icmp_seq=(\d+) ttl", output.decode())}
        return len(answered), max(answered) - len(answered)


# One region has the networks n1 and n2 with keys 1 and 2; the other with 11 and 12. The router has the same addresses in both.

GATEWAYS = {"n1": "10.0.0.1", "n2": "10.1.0.1"}
P1 = worlds.port("p1", 11, on="a1", net="n1", fixed_ips=(FixedIP("s1", "10.0.0.11"), FixedIP("s6", "fd00::11")))
P2 = worlds.port("p2", 12, on="b1", net="n1", fixed_ips=(FixedIP("s1", "10.0.0.12"), FixedIP("s6", "fd00::12")))
Q1 = worlds.port("q1", 13, on="a1", net="n2", fixed_ips=(FixedIP("s2", "10.1.0.11"),))
Q2 = worlds.port("q2", 14, on="b1", net="n2", fixed_ips=(FixedIP("s2", "10.1.0.12"),))


def region(base: int, kind: str, vnis: tuple[int, int], router: int) -> Iterable[Row]:
    """The networks and the router of a region; its router's MACs are its own."""
    for number, (name, cidr, vni) in enumerate((("n1", "10.0.0.0/24", vnis[0]), ("n2", "10.1.0.0/24", vnis[1])), 1):
        yield worlds.network(name, base + number, network_type=kind, segmentation_id=vni)
        yield worlds.subnet(f"s{number}", cidr, name)
        yield worlds.interface("r", router + number, FixedIP(f"s{number}", GATEWAYS[name]), net=name)
    yield worlds.subnet("s6", "fd00::/64", "n1")
    yield worlds.router("r", 1 + base, "n1", "n2")


@pytest.mark.parametrize(
    ("ours", "theirs", "vteps"),
    [
        ("geneve", "geneve", (A1, B1)),
        ("vxlan", "vxlan", ("2001:db8::1", "2001:db8::2")),
        ("gre", "gre", (A1, B1)),
        ("geneve", "vxlan", (A1, B1)),
    ],
)
async def test_guests_of_two_regions_reach_each_other_with_vnis_swapped(
    fabric: str, ours: str, theirs: str, vteps: tuple[str, str]
) -> None:
    """Within both networks, by IPv4 and IPv6, and by the router from one to the other."""
    async with hosts(fabric, ("a1", vteps[0]), ("b1", vteps[1])) as (a, b):
        of_b = [
            announced(P2, vteps[1], vni=8, encapsulation=theirs),
            announced(Q2, vteps[1], vni=7, encapsulation=theirs),
        ]
        of_a = [announced(P1, vteps[0], vni=7, encapsulation=ours), announced(Q1, vteps[0], vni=8, encapsulation=ours)]
        await a.now(*region(0, ours, (7, 8), 30), P1, Q1, *of_b, Alive(id="a1", since=0.0))
        await b.now(*region(10, theirs, (8, 7), 40), P2, Q2, *of_a, Alive(id="b1", since=0.0))
        vms = {}
        for here, port in ((a, P1), (a, Q1), (b, P2), (b, Q2)):
            addresses = [f"{ip}/{64 if ':' in ip else 24}" for ip in port.ips]
            vms[port.id] = await here.vm(port, *addresses)
            system.ip(vms[port.id], f"route add default via {GATEWAYS[port.network]}")
        for kind in {ours, theirs}:
            await up(a, vteps[1], encapsulation=kind)
            await up(b, vteps[0], encapsulation=kind)
        assert await asyncio.to_thread(tunnels, a) == await asyncio.to_thread(tunnels, b) == sorted({ours, theirs})
        for vm, address in (
            *(("p1", "10.0.0.12"), ("p1", "fd00::12"), ("q2", "10.1.0.11")),
            *(("p1", "10.1.0.12"), ("q1", "10.0.0.12"), ("p2", "10.1.0.11"), ("p2", "10.0.0.1")),
        ):
            assert await asyncio.to_thread(reaches, vms[vm], address), f"{vm} doesn't reach {address}"
        own = ofport(a, remote_peer_name(theirs, vteps[1]))
        assert a.engine.locality("p2") == Remote(remote_chassis(vteps[1]), own, vteps[1]), "by the tunnel made for it"
        assert a.engine.serving == {"p2", "q2"}
        assert b.engine.serving == {"p1", "q1"}


# Below, one network of Geneve: VNI 7 in the region of a1, 8 in the other.

NET_A, NET_B = worlds.network("n1", 1, segmentation_id=7), worlds.network("n1", 11, segmentation_id=8)
AT_B2 = replace(P2, chassis="b2")
P2_AT_B1, P2_AT_B2 = announced(P2, B1, vni=8), announced(P2, B2, vni=8)
S2 = worlds.port("s2", 15, on="b1", net="n1", fixed_ips=(FixedIP("s1", "10.0.0.15"),))
S2_AT_B1 = announced(S2, B1, vni=8)
P1_AT_A1 = announced(P1, A1, vni=7)


async def test_no_packet_is_lost_when_a_port_moves_to_another_chassis_of_its_region(fabric: str) -> None:
    """Both guests are awake, so what is lost is the network's doing. To the new chassis there was no tunnel before."""
    async with hosts(fabric, ("a1", A1), ("b1", B1), ("b2", B2)) as (a, b1, b2):
        await a.now(NET_A, P1, P2_AT_B1, S2_AT_B1)
        await b1.now(NET_B, P2, S2, P1_AT_A1)
        await b2.now(NET_B, AT_B2, P1_AT_A1)
        talker = await a.vm(P1, "10.0.0.11/24")
        old, new = await b1.vm(P2, "10.0.0.12/24"), await b2.vm(AT_B2, "10.0.0.12/24")
        await up(a, B1)
        assert await asyncio.to_thread(tunnels, a) == ["geneve"]
        ping = await Ping.begin(talker, "10.0.0.12")
        await asyncio.to_thread(until, lambda: echoes(old) > 20)
        assert echoes(new) == 0
        await a.now(P2_AT_B2)
        assert a.engine.locality("p2") == Remote(remote_chassis(B2), ofport(a, tunnel_name("geneve")), B2)
        await up(a, B2)
        assert a.engine.locality("p2") == Remote(remote_chassis(B2), ofport(a, remote_peer_name("geneve", B2)), B2)
        got = echoes(new)
        await asyncio.to_thread(until, lambda: echoes(new) > got + 20)
        assert await asyncio.to_thread(tunnels, a) == ["geneve", "geneve"]
        await a.now(gone=(S2_AT_B1,))
        await a.until(lambda: a.replica.get(OvsPort, remote_peer_name("geneve", B1)) is None)
        answered, lost = await ping.end()
        assert (answered > 40, lost) == (True, 0), f"{answered} answered, {lost} lost"


def echoes(vm: str, which: str = "InEchos") -> int:
    """Echo requests, or replies, that the guest has got."""
    lines = [
        line.split() for line in inside(vm, "cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Icmp:")
    ]
    return int(dict(zip(*lines, strict=True))[which])


def until(condition: Callable[[], bool]) -> None:
    """Look again and again, on a thread of its own."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_a_tunnel_comes_with_the_first_port_that_needs_it_and_goes_with_the_last(fabric: str) -> None:
    async with hosts(fabric, ("a1", A1)) as (a,):
        await a.now(NET_A, P1)
        await a.until(lambda: a.replica.get(OvsPort, tunnel_name("geneve")) is not None)
        assert await asyncio.to_thread(tunnels, a) == []
        await a.now(P2_AT_B1)
        name = remote_peer_name("geneve", B1)
        await a.until(lambda: a.replica.get(OvsPort, name) is not None)
        before = await asyncio.to_thread(a.vswitch.vsctl, "get", "Interface", name, "_uuid")
        await a.now(S2_AT_B1)
        await a.now(gone=(P2_AT_B1,))
        assert await asyncio.to_thread(tunnels, a) == ["geneve"]
        assert await asyncio.to_thread(a.vswitch.vsctl, "get", "Interface", name, "_uuid") == before
        mark = await asyncio.to_thread(a.vswitch.vsctl, "get", "Interface", name, "external_ids:df-tunnel")
        assert mark.strip().strip('"') == name
        await a.now(gone=(S2_AT_B1,))
        await a.until(lambda: a.replica.get(OvsPort, name) is None)
        assert await asyncio.to_thread(tunnels, a) == []


async def test_a_restarted_controller_takes_its_tunnels_over_and_loses_nothing(fabric: str) -> None:
    async with AsyncExitStack() as stack:
        machines = [stack.enter_context(machine(fabric, vtep)) for vtep in (A1, B1)]
        b = await stack.enter_async_context(chassis(machines[1], me("b1", B1)))
        await b.now(NET_B, P2, P1_AT_A1)
        await b.vm(P2, "10.0.0.12/24")
        first = await stack.enter_async_context(AsyncExitStack())
        a = await first.enter_async_context(chassis(machines[0], me("a1", A1)))
        await a.now(NET_A, P1, P2_AT_B1)
        talker = await a.vm(P1, "10.0.0.11/24")
        stack.callback(system.netns_delete, talker)
        a.leave(talker)
        await up(a, B1)
        name, flows = remote_peer_name("geneve", B1), await asyncio.to_thread(a.flows)
        uuid = await asyncio.to_thread(a.vswitch.vsctl, "get", "Interface", name, "_uuid")
        ping = await Ping.begin(talker, "10.0.0.12")
        await first.aclose()
        a = await stack.enter_async_context(chassis(machines[0], me("a1", A1)))
        await a.now(NET_A, P1, P2_AT_B1)
        assert session(name, a.replica) is True, "what the vswitchd knows, a new controller knows at once"
        assert await asyncio.to_thread(a.flows) == flows
        assert await asyncio.to_thread(a.vswitch.vsctl, "get", "Interface", name, "_uuid") == uuid
        assert await asyncio.to_thread(tunnels, a) == ["geneve"]
        got = await asyncio.to_thread(echoes, talker, "InEchoReps")
        await asyncio.to_thread(until, lambda: echoes(talker, "InEchoReps") > got + 20)
        assert (await ping.end())[1] == 0


async def test_a_dead_remote_chassis_is_withdrawn_within_a_second_and_comes_back(fabric: str) -> None:
    async with hosts(fabric, ("a1", A1), ("b1", B1)) as (a, b):
        await a.now(NET_A, P1, P2_AT_B1)
        await b.now(NET_B, P2, P1_AT_A1)
        talker, _ = await a.vm(P1, "10.0.0.11/24"), await b.vm(P2, "10.0.0.12/24")
        await up(a, B1)
        assert await asyncio.to_thread(reaches, talker, "10.0.0.12")
        async with asyncio.timeout(10):  # before it is up a session sends once a second (RFC 5880 §6.8.3)
            while "Remote Minimum TX Interval: 250ms" not in await asyncio.to_thread(a.vswitch.appctl, "bfd/show"):
                await asyncio.sleep(0.05)
        await asyncio.to_thread(b.vswitch.stop_vswitchd, kill=True)
        began = time.monotonic()
        await a.until(lambda: a.engine.locality("p2") is None)
        took = time.monotonic() - began
        print(f"withdrawn after {took:.2f} s")
        assert took < 1.2
        await asyncio.to_thread(b.vswitch.start_vswitchd)
        async with asyncio.timeout(20):
            while not b.switch.connected:
                await asyncio.sleep(0.01)
        await up(b, A1)
        await a.until(lambda: a.engine.locality("p2") is not None)
        assert await asyncio.to_thread(reaches, talker, "10.0.0.12")


async def test_what_is_forged_is_dropped(fabric: str) -> None:
    """From a VTEP that no row names, and from a known one with the VNI of a network that isn't stretched to it."""
    private = worlds.network("n9", 9, segmentation_id=9)
    secret = replace(worlds.port("z", 19, on="a1", net="n9"), mac=P1.mac)
    async with hosts(fabric, ("a1", A1), ("b1", B1), ("b2", B2)) as (a, b1, b2):
        await a.now(NET_A, P1, P2_AT_B1, private, secret)
        await b1.now(NET_B, P2, P1_AT_A1)
        await b2.now(NET_B, AT_B2, P1_AT_A1)
        guest, other = await a.vm(P1, "10.0.0.11/24"), await a.vm(secret, "10.0.0.11/24")
        await up(a, B1)
        await up(b1, A1)
        await b2.until(lambda: bool(interface(b2, A1)))
        for from_whom, vni in ((b1, 9), (b2, 7), (b2, 9), (b1, 0)):
            before, got = missed(a), (received(guest), received(other))
            await send(from_whom, vni)
            await asyncio.to_thread(until, lambda before=before: missed(a) >= before + 20)
            assert (received(guest), received(other)) == got
        got = (received(guest), received(other))
        await send(b1, 7)
        await asyncio.to_thread(until, lambda: received(guest) == got[0] + 20)
        assert received(other) == got[1]
        assert session(remote_peer_name("geneve", B1), a.replica) is True


async def send(here: TestChassis, vni: int) -> None:
    """20 packets to the guest p1, as if from p2, with this VNI; to BFD's UDP port, for a guest's are none of the session's."""
    packet = (
        f"{P1.mac}{P2.mac}0800".replace(":", "")
        + "4500001c000000004011"
        + "66bb"
        + "0a00000c0a00000b"
        + "c0000ec800080000"
    )
    sent = f"set_field:{vni}->tun_id,set_field:{A1}->tun_dst,output:{ofport(here, tunnel_name('geneve'))}"
    for _ in range(20):
        await asyncio.to_thread(
            here.vswitch.ofctl, "packet-out", BRIDGE, f"in_port=LOCAL,packet={packet},actions={sent}"
        )


def missed(here: TestChassis) -> int:
    """Packets that were dropped because nobody knows where they come from."""
    (line,) = [it for it in here.vswitch.ofctl("dump-flows", BRIDGE, "table=0").splitlines() if "priority=0" in it]
    return int(line.split("n_packets=")[1].split(",")[0])


def received(vm: str) -> int:
    """Packets of IPv4 that the guest got."""
    lines = [line.split() for line in inside(vm, "cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Ip:")]
    return int(dict(zip(*lines, strict=True))["InReceives"])


def test_a_controller_tells_of_its_tunnel_and_vouches_for_the_port_as_long_as_they_are_needed(
    vswitch: VSwitch, tmp_path: Path
) -> None:
    """A controller as a process. Nobody answers to its session; the way, which is the loopback, is measured."""
    host = Host(vswitch, tmp_path)
    host.config.write_text(host.config.read_text().replace("192.0.2.1", "127.0.0.1"))
    far = announced(replace(P2, network="net"), "127.0.0.2")
    host.write(NET, PORT, BINDING, far)
    with host.controller():
        wait(lambda: host.row("status:h1", PortStatus, far.id) is not None, "the status of the port")
        word = host.row("status:h1", PortStatus, far.id)
        assert isinstance(word, PortStatus)
        assert (word.status, word.generation) == ("ACTIVE", 0)
        wait(lambda: mtu_said(host) == 65535, "the way to be measured")
        sessions = host.status()["bfd_sessions"]
        assert sessions["RemoteChassis:127.0.0.2 (geneve)"].startswith("never up since")
        gone = Key(far.scope, type(far).__name__, far.id)
        host.in_store(lambda store: store.commit(Txn((Delete(gone),))))
        wait(lambda: host.row("status:h1", TunnelState, "h1/127.0.0.2") is None, "its state to go")
        wait(lambda: host.row("status:h1", PortStatus, far.id) is None, "its status to go")
        wait(lambda: "df-r" not in vswitch.vsctl("list-ports", BRIDGE), "its tunnel to go")


def mtu_said(host: Host) -> int | None:
    row = host.row("status:h1", TunnelState, "h1/127.0.0.2")
    return row.mtu if isinstance(row, TunnelState) else None


def test_where_nothing_can_be_encrypted_no_tunnel_is_made_and_why_is_said(vswitch: VSwitch, tmp_path: Path) -> None:
    """This machine's data path is in user space. The port is not reached, in clear least of all."""
    host, key = Host(vswitch, tmp_path), tmp_path / "psk"
    key.write_text("a key that nobody guesses")
    key.chmod(0o600)
    with host.config.open("a") as file:
        file.write(f"region_ipsec = psk\nregion_ipsec_psk_file = {key}\n")
    far = announced(replace(P2, network="net"), B1)
    host.write(NET, PORT, BINDING, far)
    with host.controller():
        wait(lambda: host.status().get("in_sync"), "the controller to be in sync")
        why = "no tunnel is made, for it can't be encrypted: datapath_type = netdev: only the kernel's data path can encrypt"
        owner = f"regions/RemoteChassis/{far.chassis}"
        wait(lambda: host.status()["degraded"].get(owner) == why, "the reason to be told")
        assert "df-r" not in vswitch.vsctl("list-ports", BRIDGE)
        assert not [flow for flow in host.flows() if B1 in flow]
        assert host.row("status:h1", PortStatus, far.id) is None
    assert "nobody guesses" not in host.log.read_text()
