"""The apps on a real Open vSwitch, with packets of real kernels."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from chassis import BRIDGE, TestChassis, chassis, inside, loses, neighbour, reaches

from dragonflow.apps.resolution import Resolution
from dragonflow.controller.replica import Object
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import AddressPair, FixedIP, LogicalPort, OvsPort, Row, encode
from dragonflow.pipeline import Local, Remote
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn
from dragonflow.testing import worlds

ODD = msgspec.structs.replace(worlds.ME, permitted_ethertypes=(0x1234,))
"""A chassis on which packets pass that no rule of a security group can speak of."""

GOLDEN = Path(__file__).parent / "golden"

NET = worlds.network()
A, B, C = (worlds.port(name, key) for name, key in (("a", 11), ("b", 12), ("c", 13)))


def addresses(port: LogicalPort) -> tuple[str, str]:
    four, six = port.ips
    return f"{four}/24", f"{six}/64"


async def test_two_ports_reach_each_other_and_a_stranger_does_not(vswitch: VSwitch) -> None:
    other_net = worlds.network("other", 2)
    stranger = worlds.port("s", 14, net="other", fixed_ips=(FixedIP("v4", "10.0.0.14"), FixedIP("v6", "fd00::e")))
    async with chassis(vswitch) as here:
        await here.now(NET, other_net, A, B, stranger)
        a, b = await here.vm(A, *addresses(A)), await here.vm(B, *addresses(B))
        s = await here.vm(stranger, *addresses(stranger))
        for target in B.ips:
            assert reaches(a, target)
        for target in A.ips:
            assert reaches(b, target)
            assert not reaches(s, target)
        for target in stranger.ips:
            assert not reaches(a, target)
        assert here.hits(Resolution.answer.number) >= 4  # ARP and ND, both ways, were answered here


async def test_questions_are_answered_in_the_owners_name(vswitch: VSwitch) -> None:
    """B has none of its addresses on its interface, so only the switch can have answered for it."""
    async with chassis(vswitch) as here:
        await here.now(NET, A, B)
        a = await here.vm(A, *addresses(A))
        await here.vm(B)
        for target in B.ips:
            reaches(a, target)
            assert B.mac in neighbour(a, target), neighbour(a, target)
        assert not reaches(a, "10.0.0.99")
        assert "02:00" not in neighbour(a, "10.0.0.99")


async def test_addresses_without_a_place_or_shared_by_pairs_stay_unanswered(vswitch: VSwitch) -> None:
    pair = AddressPair(B.ips[0])
    sharing = msgspec.structs.replace(A, address_pairs=(pair,))
    async with chassis(vswitch) as here:
        await here.now(NET, A, B)  # B is bound here, but not plugged
        a = await here.vm(A, *addresses(A))
        reaches(a, B.ips[0])
        assert B.mac not in neighbour(a, B.ips[0])
        await here.vm(B)
        await here.now(sharing)
        reaches(a, B.ips[0])
        assert B.mac not in neighbour(a, B.ips[0])
        reaches(a, B.ips[1])
        assert B.mac in neighbour(a, B.ips[1])


async def test_duplicate_address_detection_hears_owners_and_nobody_else(vswitch: VSwitch) -> None:
    """The switch doesn't answer probes, but carries them: who has the address says so. Ports that may have it may ask."""
    sharing = tuple(AddressPair(ip) for ip in A.ips)
    async with chassis(vswitch) as here:
        await here.now(NET, A, msgspec.structs.replace(B, address_pairs=sharing))
        a, b = await here.vm(A), await here.vm(B)
        assert await detected(a, A.ips[1]) == "ok"
        assert await detected(b, A.ips[1]) == "duplicate"
        assert await detected(b, B.ips[1]) == "ok"
        inside(b, "ip", "address", "add", f"{A.ips[0]}/24", "dev", "eth0")
        assert B.mac in probe(a, A.ips[0])
        assert probe(b, A.ips[0]) == ""


PROBE = """
import socket, sys
source, target = bytes.fromhex(sys.argv[1].replace(":", "")), socket.inet_aton(sys.argv[2])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
wire.bind(("eth0", 0x0806))
wire.settimeout(1)
wire.send(b"\\xff" * 6 + source + bytes.fromhex("0806 0001 0800 06 04 0001") + source + bytes(10) + target)
try:
    while (answer := wire.recv(99))[20:22] != bytes((0, 2)):
        pass
    print(answer[22:28].hex(":"))
except TimeoutError:
    pass
"""


def probe(vm: str, address: str) -> str:
    """Send an ARP probe (RFC 5227 §2.1.1) and return the MAC of who answers, if anybody."""
    mac = inside(vm, "cat", "/sys/class/net/eth0/address").stdout.strip()
    return inside(vm, sys.executable, "-c", PROBE, mac, address).stdout.strip()


async def detected(vm: str, address: str) -> str:
    """Add an address and wait for the kernel's verdict."""
    inside(vm, "ip", "address", "add", f"{address}/64", "dev", "eth0")
    async with asyncio.timeout(15):
        while True:
            shown = next(
                line for line in inside(vm, "ip", "-6", "-o", "address").stdout.splitlines() if f"{address}/" in line
            )
            if "dadfailed" in shown:
                return "duplicate"
            if "tentative" not in shown:
                return "ok"
            await asyncio.sleep(0.05)


async def test_ports_come_move_and_go_without_leftovers(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        await here.now(NET)
        await here.until(lambda: tunnel_is_up(here))
        empty = here.flows()
        await here.now(A, B)
        a, b = await here.vm(A, *addresses(A)), await here.vm(B, *addresses(B))
        assert reaches(a, B.ips[0])
        await here.now(msgspec.structs.replace(B, admin_up=False))
        assert loses(a, B.ips[0])
        await here.now(B)
        assert reaches(a, B.ips[0])
        await here.now(msgspec.structs.replace(B, mac="02:00:00:00:00:99"))
        inside(b, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
        inside(a, "ip", "neigh", "flush", "all")
        assert reaches(a, B.ips[0])
        settled = await here.now(gone=(A, B))
        assert {str(event) for event in settled.events} == {"local_deleted a", "local_deleted b"}
        assert here.flows() == empty


def tunnel_is_up(here: TestChassis) -> bool:
    tunnel = here.replica.get(OvsPort, "df-geneve")
    return tunnel is not None and tunnel.ofport is not None


async def become(here: TestChassis, objects: tuple[Object, ...]) -> None:
    """The world of these objects, without VMs. Ports here get the OpenFlow ports that the world says."""
    for tap in objects:
        if isinstance(tap, OvsPort) and tap.iface_id is not None:
            here.vswitch.vsctl(
                *("add-port", BRIDGE, tap.id, "--", "set", "Interface", tap.id, "type=internal"),
                *(f"ofport_request={tap.ofport}", f"external_ids:iface-id={tap.iface_id}"),
            )
    ports = sum(isinstance(it, LogicalPort) for it in objects)
    await here.now(*(it for it in objects if not isinstance(it, OvsPort)))
    await here.until(lambda: len(here.engine.places) == ports)


async def across(here: TestChassis) -> None:
    """A and B here (without VMs), C on another chassis; ofports 1, 2 and 100."""
    await become(here, worlds.ACROSS)


@pytest.mark.parametrize("name", ["across", "guarded"])
async def test_golden_tables(vswitch: VSwitch, name: str) -> None:
    """The whole pipeline of a small world as ovs-ofctl sees it; run with DF_GOLDEN=write in the environment to renew it."""
    async with chassis(vswitch) as here:
        await become(here, {"across": worlds.ACROSS, "guarded": worlds.GUARDED}[name])
        tunnel = here.engine.places["c"]
        assert isinstance(tunnel, Remote)
        found = re.sub(r"cookie=0x[0-9a-f]+, ?", "", here.flows())
        found = re.sub(rf"(in_port=|output:){tunnel.ofport}\b", r"\1TUNNEL", found)
        found = "\n".join(sorted(found.splitlines())) + "\n"
        golden = GOLDEN / f"{name}.txt"
        if os.environ.get("DF_GOLDEN") == "write":
            golden.write_text(found)
        assert found == golden.read_text()


async def test_an_audit_finds_what_is_missing_too_much_and_wrong(vswitch: VSwitch) -> None:
    async with chassis(vswitch, audited=False) as here:
        await across(here)
        assert await here.differences() == ()
        cookie = here.vswitch.ofctl("dump-flows", BRIDGE, "table=192,reg7=0xb").split("cookie=")[1].split(",")[0]
        here.vswitch.ofctl("add-flow", BRIDGE, "table=7,priority=3,actions=drop")
        here.vswitch.ofctl("add-flow", BRIDGE, f"cookie={cookie},table=192,priority=10,reg7=0xb,actions=output:2")
        here.vswitch.ofctl("del-flows", BRIDGE, "table=96,dl_dst=02:00:00:00:00:0b")
        found = await here.differences()
        assert len(found) == 3, found
        assert any(line.startswith("too much: flow table=7,") for line in found), found
        assert any(line.startswith("wrong: flow table=192,") and line.endswith("l2/LogicalPort/a") for line in found)
        assert any(line.startswith("missing: flow table=96,") and line.endswith("l2/LogicalPort/a") for line in found)


async def test_the_audit_command_reads_the_world_by_itself(vswitch: VSwitch, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/dfdb.sqlite"
    me = worlds.chassis("here", "192.0.2.1")
    bindings = [it for port in (A, B) for it in worlds.bindings(port)]
    store = open_store(url)
    rows = [it for it in (*worlds.ACROSS, worlds.OPEN, me, *bindings) if isinstance(it, Row)]
    await store.commit(Txn(tuple(Put(Key(it.scope, type(it).__name__, it.id), encode(it)) for it in rows)))
    await store.close()
    async with chassis(vswitch, audited=False) as here:
        await across(here)
        places = (f"--ovsdb=unix:{vswitch.db_sock}", f"--openflow=unix:{vswitch.openflow(BRIDGE)}")
        command = (sys.executable, "-m", "dragonflow.testing.audit", f"--store={url}", "--chassis=here", *places)
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        here.vswitch.ofctl("del-flows", BRIDGE, "table=96")
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == 8


async def test_traces_across_chassis(vswitch: VSwitch) -> None:
    async with chassis(vswitch, ODD) as here:
        await across(here)
        tunnel = here.engine.places["c"]
        assert isinstance(tunnel, Remote)
        assert here.engine.places["a"] == Local(1)
        to_c = here.trace("in_port=1,dl_src=02:00:00:00:00:0b,dl_dst=02:00:00:00:00:0d,dl_type=0x1234")
        assert f"output:{tunnel.ofport}" in to_c
        assert "set_field:0x1389->tun_id" in to_c
        assert "set_field:192.0.2.2->tun_dst" in to_c

        flooded = here.trace("in_port=1,dl_src=02:00:00:00:00:0b,dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x1234")
        assert "skipping output to input port" in flooded
        assert "output:2" in flooded
        assert f"output:{tunnel.ofport}" in flooded

        inbound = f"in_port={tunnel.ofport},tun_id=5001,tun_src=192.0.2.2,tun_dst=192.0.2.1,dl_type=0x1234,"
        here_only = here.trace(inbound + "dl_src=02:00:00:00:00:0d,dl_dst=ff:ff:ff:ff:ff:ff")
        assert "output:1" in here_only
        assert "output:2" in here_only
        assert f"output:{tunnel.ofport}" not in here_only
        assert "output:1" in here.trace(inbound + "dl_src=02:00:00:00:00:0d,dl_dst=02:00:00:00:00:0b")

        back = here.trace(inbound + "dl_src=02:00:00:00:00:0d,dl_dst=02:00:00:00:00:0d")
        assert "Datapath actions: drop" in back


@pytest.mark.parametrize(
    "outsider",
    ["tun_id=5001,tun_src=192.0.2.66", "tun_id=5999,tun_src=192.0.2.2", "tun_id=1,tun_src=192.0.2.2"],
)
async def test_strange_tunnel_packets_are_dropped(vswitch: VSwitch, outsider: str) -> None:
    async with chassis(vswitch) as here:
        await across(here)
        tunnel = here.engine.places["c"]
        assert isinstance(tunnel, Remote)
        packet = f"in_port={tunnel.ofport},{outsider},tun_dst=192.0.2.1,dl_dst=02:00:00:00:00:0b,dl_type=0x1234"
        assert "Datapath actions: drop" in here.trace(packet)


async def test_unknown_unicast_goes_only_to_ports_without_port_security(vswitch: VSwitch) -> None:
    packet = "in_port=1,dl_src=02:00:00:00:00:0b,dl_dst=02:00:00:00:99:99,dl_type=0x1234"
    async with chassis(vswitch, ODD) as here:
        await across(here)
        assert "Datapath actions: drop" in here.trace(packet)
        await here.now(worlds.port("b", 12, port_security=False))
        trace = here.trace(packet)
        assert "output:2" in trace
        assert here.vswitch.ofctl("dump-groups", BRIDGE).count("bucket=") == 7


async def test_underlay_of_ipv6(vswitch: VSwitch) -> None:
    me = msgspec.structs.replace(worlds.ME, tunnel_ip="2001:db8::1", tunnel_types=("geneve", "vxlan"))
    there = worlds.chassis("there", "2001:db8::2", tunnel_types=("vxlan", "geneve"))
    vxlan = worlds.network("vx", 3, network_type="vxlan", segmentation_id=77)
    async with chassis(vswitch, me) as here:
        await here.now(
            vxlan, NET, there, worlds.port("far", 21, on="there", net="vx"), worlds.port("g", 22, on="there")
        )
        await here.until(lambda: len(here.engine.places) == 2)
        far, near = here.engine.places["far"], here.engine.places["g"]
        assert isinstance(far, Remote)
        assert isinstance(near, Remote)
        assert far.ofport != near.ofport
        arrives = here.trace(
            f"in_port={far.ofport},tun_id=77,tun_ipv6_src=2001:db8::2,tun_ipv6_dst=2001:db8::1,dl_dst=02:00:00:00:00:15,dl_type=0x1234"
        )
        assert "set_field:0x3/0xffffff->metadata" in arrives
