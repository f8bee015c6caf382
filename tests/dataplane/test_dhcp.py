"""DHCP with real clients on a real Open vSwitch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from chassis import TestChassis, chassis, inside, neighbour

from dragonflow.apps.dhcp import Dhcp
from dragonflow.controller.view import Me
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import DhcpOption, FixedIP, HostRoute
from dragonflow.observe import metrics
from dragonflow.pipeline import PuntKind
from dragonflow.pipeline.punt import LIMITS
from dragonflow.testing import worlds

ME = Me(chassis="here", tunnel_ip="192.0.2.1", dhcp_lease_time=4)
NET = worlds.network(dns_domain="example.org")
V4 = worlds.subnet(
    gateway_ip="10.0.0.1", dns_nameservers=("9.9.9.9",), host_routes=(HostRoute("10.9.0.0/17", "10.0.0.3"),)
)
OPTIONS = (DhcpOption("ntp-server", "10.0.0.6"), DhcpOption("67", "boot.img"))
A, B = worlds.port("a", 11, dhcp_options=OPTIONS), worlds.port("b", 12)

SCRIPT = """\
#!/bin/sh
# What the client tells of its lease, a line each time; and all it takes to renew through a router that is made up.
if [ "$1" = bound ]; then
    ip address replace "$ip/$mask" dev "$interface"
    ip route replace default via 10.0.0.1 dev "$interface"
    ip neighbour replace 10.0.0.1 lladdr 02:00:00:00:00:fe dev "$interface"
fi
set | grep -E "^(ip|mask|router|dns|domain|mtu|lease|staticroutes|msstaticroutes|serverid|ntpsrv|bootfile|hostname)=" |
    tr "\\n" " " | sed "s/^/$1 /" >>OUT
echo >>OUT
"""


class Udhcpc:
    """BusyBox's client in a VM; ``heard`` is what its script was told so far."""

    def __init__(self, vm: str, directory: Path, *options: str) -> None:
        self.out = directory / f"{vm}.out"
        self.out.write_text("")
        script = directory / f"{vm}.sh"
        script.write_text(SCRIPT.replace("OUT", str(self.out)))
        script.chmod(0o755)
        wanted = [it for name in ("121", "249", "mtu", "ntpsrv", "bootfile") for it in ("-O", name)]
        command = ["udhcpc", "-f", "-i", "eth0", "-s", str(script), "-t", "3", "-T", "1", "-A", "1", *wanted, *options]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", vm, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def heard(self) -> list[str]:
        return [line for line in self.out.read_text().splitlines() if line]  # of "deconfig" there is nothing to tell

    async def hears(self, what: str, times: int = 1) -> str:
        async with asyncio.timeout(60):
            while len(found := [line for line in self.heard if line.startswith(what)]) < times:
                await asyncio.sleep(0.02)
        return found[-1]

    def renew(self) -> None:
        """Have it ask its server, and nobody else, for what it has."""
        self.process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
async def here(vswitch: VSwitch) -> AsyncIterator[TestChassis]:
    async with chassis(vswitch, ME) as it:
        await it.now(NET, V4, A, B)
        yield it


async def test_a_guest_gets_its_address_and_options_and_keeps_them(here: TestChassis, tmp_path: Path) -> None:
    client = Udhcpc(await here.vm(A), tmp_path)
    try:
        told = dict(re.findall(r"(\w+)='?([^'=]*)'? (?=\w+=|$)", (await client.hears("bound")).partition(" ")[2]))
        assert told == {
            "ip": "10.0.0.11",
            "mask": "16",
            "router": "10.0.0.1",
            "dns": "9.9.9.9",
            "domain": "example.org",
            "mtu": "1442",
            "lease": "4",
            "hostname": "host-10-0-0-11",
            "ntpsrv": "10.0.0.6",
            "bootfile": "boot.img",
            "serverid": "169.254.169.254",
            "staticroutes": "10.9.0.0/17 10.0.0.3 169.254.169.254/32 10.0.0.1 0.0.0.0/0 10.0.0.1",
            "msstaticroutes": "10.9.0.0/17 10.0.0.3 169.254.169.254/32 10.0.0.1 0.0.0.0/0 10.0.0.1",
        }
        await here.now(msgspec.structs.replace(V4, dns_nameservers=("8.8.8.8",)))
        client.renew()
        assert "dns='8.8.8.8'" in await client.hears("renew")
    finally:
        client.end()


async def test_a_guest_whose_address_changes_is_refused_the_old_one_and_gets_the_new(
    here: TestChassis, tmp_path: Path
) -> None:
    client = Udhcpc(await here.vm(A), tmp_path)
    try:
        await client.hears("bound")
        await here.now(msgspec.structs.replace(A, fixed_ips=(FixedIP("v4", "10.0.0.99"),)))
        client.renew()
        await client.hears("nak")
        assert "ip='10.0.0.99'" in await client.hears("bound", times=2)
    finally:
        client.end()


@contextlib.asynccontextmanager
async def captured(vm: str, directory: Path) -> AsyncIterator[Callable[[], str]]:
    """What comes to a VM's interface of DHCP, as tcpdump tells it."""
    out = directory / f"{vm}.captured"
    command = ["tcpdump", "-l", "-n", "-i", "eth0", "udp", "and", "(port 67 or port 68)"]
    with out.open("w") as file:
        process = subprocess.Popen(["ip", "netns", "exec", vm, *command], stdout=file, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        while b"listening" not in (line := process.stderr.readline()):
            assert line
        yield out.read_text
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


async def test_nobody_else_hears_of_it_unless_the_subnet_has_no_dhcp(here: TestChassis, tmp_path: Path) -> None:
    a, b = await here.vm(A), await here.vm(B)
    async with captured(b, tmp_path) as told:
        client = Udhcpc(a, tmp_path)
        try:
            await client.hears("bound")
            assert told() == ""
        finally:
            client.end()
        await here.now(msgspec.structs.replace(V4, enable_dhcp=False))
        client = Udhcpc(a, tmp_path)
        try:
            async with asyncio.timeout(60):
                while "BOOTP/DHCP, Request from 02:00:00:00:00:0b" not in told():
                    await asyncio.sleep(0.02)
            assert client.heard == []
        finally:
            client.end()


RATE, BURST, _ = LIMITS[PuntKind.DHCPV4]

FLOOD = """
import socket, sys, time
frame = bytes.fromhex(sys.argv[1])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
while True:
    wire.send(frame)
    time.sleep(0.0002)  # a test must leave Open vSwitch in user space some of the machine
"""


async def test_a_flood_of_one_guest_keeps_no_other_from_being_plugged_nor_from_its_address(
    here: TestChassis, tmp_path: Path
) -> None:
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    bootp = BOOTP(op=1, chaddr=bytes.fromhex(A.mac.replace(":", ""))) / DHCP(options=[("message-type", 1), "end"])
    head = Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    frame = bytes(head / UDP(sport=68, dport=67) / bootp)
    a = await here.vm(A)
    before, began = answered(), time.monotonic()
    flood = subprocess.Popen(["ip", "netns", "exec", a, sys.executable, "-c", FLOOD, frame.hex()])
    try:
        async with asyncio.timeout(60):
            while answered() < before + BURST:
                await asyncio.sleep(0.02)
        client = Udhcpc(await here.vm(B), tmp_path)
        try:
            assert "ip='10.0.0.12'" in await client.hears("bound")
        finally:
            client.end()
        async with asyncio.timeout(60):
            while here.hits(Dhcp.requests.number) < 20 * BURST:
                await asyncio.sleep(0.1)
        assert answered() - before < 2 * BURST + 2 * RATE * (time.monotonic() - began)
    finally:
        flood.kill()
        flood.wait()


def answered(kind: str = "dhcpv4") -> float:
    return metrics.PUNTED.labels(kind, "answered")._value.get()


async def test_dhclient_takes_the_lease_and_gives_it_back(here: TestChassis, tmp_path: Path) -> None:
    a = await here.vm(A)
    script, leases = tmp_path / "dhclient.sh", tmp_path / "leases"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    common = ("-4", "-v", "-sf", str(script), "-lf", str(leases), "-pf", str(tmp_path / "pid"), "-cf", "/dev/null")
    done = await asyncio.to_thread(inside, a, "dhclient", "-1", *common, "eth0")
    try:
        assert "DHCPACK of 10.0.0.11 from 169.254.169.254" in done.stderr, done.stderr
        lease = leases.read_text()
        assert "option interface-mtu 1442" in lease or "option subnet-mask 255.255.0.0" in lease
        assert 'option domain-name "example.org"' in lease
    finally:
        done = await asyncio.to_thread(inside, a, "dhclient", "-r", *common, "eth0")
    assert "DHCPRELEASE of 10.0.0.11" in done.stderr


DHCPCD = """\
mkdir -p /run/dhcpcd
for each in /run/dhcpcd /var/lib/dhcpcd; do mount -t tmpfs none $each; done  # seen in here alone, and gone with it
exec dhcpcd --nobackground --config /dev/null --script /bin/true "$@" eth0
"""


async def test_dhcpcd_takes_the_lease(here: TestChassis, tmp_path: Path) -> None:
    a = await here.vm(A)
    options = ("-4", "--oneshot", "--option", "classless_static_routes")
    done = await asyncio.to_thread(inside, a, "sh", "-c", DHCPCD, "sh", *options)
    assert done.returncode == 0, done.stderr
    assert "inet 10.0.0.11/16 " in inside(a, "ip", "-4", "address", "show", "dev", "eth0").stdout
    routes = inside(a, "ip", "-4", "route").stdout
    assert "default via 10.0.0.1 " in routes
    assert "10.9.0.0/17 via 10.0.0.3 " in routes


async def test_a_dhcp_port_answers_for_its_address(here: TestChassis, tmp_path: Path) -> None:
    server = worlds.port("dhcp", 15, on=None, device_owner="network:dhcp", fixed_ips=(FixedIP("v4", "10.0.0.2"),))
    settled = await here.now(server)
    assert [str(event) for event in settled.events] == ["distributed_created dhcp"]
    a = await here.vm(A)
    client = Udhcpc(a, tmp_path)
    try:
        assert "serverid='10.0.0.2'" in await client.hears("bound")
        client.renew()
        await client.hears("renew")
        assert server.mac in neighbour(a, "10.0.0.2")
    finally:
        client.end()
    settled = await here.now(msgspec.structs.replace(V4, enable_dhcp=False))
    assert [str(event) for event in settled.events] == ["distributed_deleted dhcp"]


V6 = worlds.subnet(
    "v6",
    "fd00::/64",
    ipv6_address_mode="dhcpv6-stateful",
    ipv6_ra_mode="dhcpv6-stateful",
    dns_nameservers=("fd00::53",),
)


async def test_dhclient_takes_an_ipv6_lease_confirms_and_releases_it(here: TestChassis, tmp_path: Path) -> None:
    await here.now(V6)
    a = await here.vm(A)
    await linked(a)
    script, leases = tmp_path / "dhclient.sh", tmp_path / "leases"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    common = ("-6", "-v", "-sf", str(script), "-lf", str(leases), "-pf", str(tmp_path / "pid"), "-cf", "/dev/null")
    try:
        done = await asyncio.to_thread(inside, a, "dhclient", "-1", *common, "eth0")
        assert "RCV: Reply message on eth0" in done.stderr, done.stderr
        lease = leases.read_text()
        assert "iaaddr fd00::b {" in lease
        assert "option dhcp6.name-servers fd00::53;" in lease
        assert "option dhcp6.server-id 0:3:0:1:2:df:0:0:0:67;" in lease
        before = answered("dhcpv6")
    finally:
        done = await asyncio.to_thread(inside, a, "dhclient", "-r", *common, "eth0")
    assert "XMT: Release on eth0" in done.stderr
    async with asyncio.timeout(30):  # of IPv6 it doesn't wait for the answer
        while answered("dhcpv6") == before:
            await asyncio.sleep(0.02)


async def test_dhclient_gets_information_alone_where_addresses_are_not_dhcps(here: TestChassis, tmp_path: Path) -> None:
    await here.now(msgspec.structs.replace(V6, ipv6_address_mode="dhcpv6-stateless", ipv6_ra_mode="dhcpv6-stateless"))
    a = await here.vm(A)
    await linked(a)
    script = tmp_path / "dhclient.sh"
    script.write_text(f'#!/bin/sh\necho "$new_dhcp6_name_servers $new_dhcp6_domain_search" >>{tmp_path}/told\n')
    script.chmod(0o755)
    files = ("-sf", str(script), "-lf", str(tmp_path / "leases"), "-pf", str(tmp_path / "pid"), "-cf", "/dev/null")
    done = await asyncio.to_thread(inside, a, "dhclient", "-6", "-S", "-1", "-v", *files, "eth0")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert "RCV: Reply message on eth0" in done.stderr, done.stderr
    assert "fd00::53 example.org." in (tmp_path / "told").read_text()


async def test_dhcpcd_is_led_to_its_ipv6_lease_by_the_routers_advertisement(here: TestChassis) -> None:
    """It asks for none before a router has told that there are any."""
    gateway = worlds.interface("r", 21, FixedIP("v6", "fd00::1"))
    await here.now(msgspec.structs.replace(V6, gateway_ip="fd00::1"), worlds.router("r", 1, "net"), gateway)
    a = await here.vm(A)
    await linked(a)
    client = subprocess.Popen(["ip", "netns", "exec", a, "sh", "-c", DHCPCD, "sh", "-6"], stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while "inet6 fd00::b/128 " not in inside(a, "ip", "-6", "address", "show", "dev", "eth0").stdout:
                await asyncio.sleep(0.1)
    finally:
        client.terminate()
        client.wait()


async def linked(vm: str) -> None:
    """Wait until the interface has its link-local address, from which DHCPv6 is spoken."""
    async with asyncio.timeout(30):
        while True:
            shown = inside(vm, "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link").stdout
            if shown and "tentative" not in shown:
                return
            await asyncio.sleep(0.05)
