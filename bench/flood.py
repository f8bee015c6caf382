"""A flood of packets for the controller from one VM: how long another VM's DHCP and a plug take, next to no flood in one run.

    .venv/bin/python bench/flood.py [--rounds 4] [--asks 20] [--plugs 5] [--rate 20000]

Needs root: a controller as a process on a real Open vSwitch in user space, in a network namespace of its own, with a DF DB of
SQLite. Rounds with and without the flood take turns. The flood is frames that flows punt, of all kinds that a guest can send,
one after the other: DHCP for IPv4 and IPv6, router solicitations, and packets that the network's router can't forward;
``--rate`` a second at the most. The other VM asks for an address 8 times a second (DISCOVER → OFFER, at its own interface). A
plug is from adding the interface in OVSDB until the controller says ACTIVE of its port (without probes).

On two cores the flood's sender, Open vSwitch's data path and the asker share the machine with the controller, so part of what is
lost is theirs: the flood takes half a core, or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DUID_LL, DHCP6_Solicit, DHCP6OptClientId
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import Ether

from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Binding, FixedIP, LogicalPort, Row, encode
from dragonflow.observe.control import ControlError, ask
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn
from dragonflow.testing import founding, worlds

NET = worlds.network(network_type="geneve")
SUBNETS = (
    worlds.subnet(gateway_ip="10.0.0.1"),
    worlds.subnet("v6", "fd00::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac"),
)
ROUTER = worlds.router("r", 1, "net")
DOOR = worlds.interface("r", 10, FixedIP("v4", "10.0.0.1"), FixedIP("v6", "fd00::a"))
HOSTILE, OTHER = worlds.port("hostile", 11), worlds.port("other", 12)

FLOOD = """
import socket, sys, time
frames = [bytes.fromhex(it) for it in sys.argv[2:]]
gap, wire = 50 / float(sys.argv[1]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
sent, began = 0, time.monotonic()
while True:
    for number in range(50):
        wire.send(frames[number % len(frames)])
    sent += 50
    if sent % 1000 == 0:
        print(sent / (time.monotonic() - began), flush=True)
    time.sleep(max(0, began + sent / 50 * gap - time.monotonic()))
"""

ASK = """
import json, socket, struct, sys, time
frame, times = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("eth0", 0))
took = []
for number in range(times):
    xid = struct.pack(">I", 0x1000 + number)
    wire.settimeout(1)
    began = time.perf_counter()
    wire.send(frame[:46] + xid + frame[50:])
    try:
        while (answer := wire.recv(2048))[46:50] != xid or answer[42] != 2:
            wire.settimeout(max(0.001, began + 1 - time.perf_counter()))
        took.append((time.perf_counter() - began) * 1000)
    except TimeoutError:
        took.append(1000.0)
    time.sleep(max(0, began + 0.125 - time.perf_counter()))
print(json.dumps(took))
"""


def rows(spare: Sequence[LogicalPort]) -> list[Row]:
    ports = [HOSTILE, OTHER, *spare]
    bindings = (Binding(id=it.id, host="here", network="net", generation=it.generation) for it in ports)
    return [NET, *SUBNETS, ROUTER, DOOR, *ports, *bindings]


def discover(port: LogicalPort) -> str:
    bootp = BOOTP(op=1, chaddr=bytes.fromhex(port.mac.replace(":", ""))) / DHCP(options=[("message-type", 1), "end"])
    head = Ether(src=port.mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    return bytes(head / UDP(sport=68, dport=67, chksum=0) / bootp).hex()


def hostile() -> list[str]:
    link, mac = "fe80::ff:fe00:b", HOSTILE.mac
    six = (
        IPv6(src=link, dst="ff02::1:2")
        / UDP(sport=546, dport=547)
        / DHCP6_Solicit()
        / DHCP6OptClientId(duid=DUID_LL(lladdr=mac))
    )
    made = (
        Ether(src=mac, dst="33:33:00:01:00:02") / six,
        Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(src=link, dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
        Ether(src=mac, dst=DOOR.mac) / IP(src=HOSTILE.ips[0], dst="192.0.2.9", ttl=64) / UDP(sport=5, dport=6),
        Ether(src=mac, dst=DOOR.mac) / IP(src=HOSTILE.ips[0], dst="10.0.0.12", ttl=1) / UDP(sport=5, dport=6),
    )
    return [discover(HOSTILE), *(bytes(it).hex() for it in made)]


class Ground:
    """A host with a controller, two VMs that are plugged, and more ports to plug."""

    def __init__(self, directory: Path, netns: str, spare: Sequence[LogicalPort]) -> None:
        self.vswitch = VSwitch(directory, netns)
        self.directory, self.netns = directory, netns
        self.control = str(directory / "control.sock")
        self._store = f"sqlite://{directory}/dfdb.sqlite"
        self._vms: list[str] = []
        self._spare = list(spare)

    async def write(self) -> None:
        store = open_store(self._store)
        puts = tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in rows(self._spare))
        await store.commit(Txn(puts))
        await founding.found(store)
        await store.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        config = self.directory / "dragonflow.conf"
        config.write_text(
            f"[df]\nhost = here\ntunnel_ip = 192.0.2.1\nstore_url = {self._store}\npubsub_url = store\nprobe = off\n"
            f"ovsdb_connection = unix:{self.vswitch.db_sock}\nopenflow_connection = unix:{self.vswitch.openflow('br-int')}\n"
            f"datapath_type = netdev\ncontrol_socket = {self.control}\n"
        )
        command = [str(Path(sys.executable).with_name("dragonflow")), "controller", "--config-file", str(config)]
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            self.wait(lambda: ask(self.control, "status")["in_sync"])
            yield
        finally:
            process.terminate()
            process.wait(10)

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except ControlError:
                pass
            time.sleep(0.001)
        raise TimeoutError((self.directory / "log").read_text()[-2000:])

    def vm(self, port: LogicalPort) -> str:
        """Plug a namespace for the port."""
        name, tap = f"dfb-{os.getpid()}-{port.key}", f"tap{port.key}"
        system.netns_add(name)
        self._vms.append(name)
        system.ip(
            name, f"link add eth0 address {port.mac} type veth peer name {tap} netns {self.netns}", "link set eth0 up"
        )
        system.offload_off(name, "eth0")
        system.ip(self.netns, f"link set {tap} up")
        self.vswitch.vsctl("add-port", "br-int", tap, "--", "set", "Interface", tap, f"external_ids:iface-id={port.id}")
        self.wait(lambda: self.active(port))
        return name

    def active(self, port: LogicalPort) -> bool:
        said = ask(self.control, "port", port.id)["said"]
        return said is not None and said["status"] == "ACTIVE"

    def plug(self) -> float:
        """Milliseconds until one more port is ACTIVE."""
        port = self._spare.pop()
        began = time.perf_counter()
        interface = ("--", "set", "Interface", port.id, "type=internal", f"external_ids:iface-id={port.id}")
        self.vswitch.vsctl("add-port", "br-int", port.id, *interface)
        self.wait(lambda: self.active(port))
        return (time.perf_counter() - began) * 1000

    def clear(self) -> None:
        self.vswitch.remove()
        for name in (*self._vms, self.netns):
            system.netns_delete(name)


def inside(vm: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", vm, sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure(arguments: argparse.Namespace) -> tuple[dict[bool, list[float]], dict[bool, list[float]], float]:
    """DHCP and plugs, in milliseconds, without and with the flood; and the flood's packets a second."""
    spare = [worlds.port(f"spare{number}", 100 + number) for number in range(2 * arguments.rounds * arguments.plugs)]
    netns = f"dfb-{os.getpid()}"
    system.netns_add(netns)
    ground = Ground(Path(tempfile.mkdtemp(prefix="dfb-")), netns, spare)
    asks: dict[bool, list[float]] = {False: [], True: []}
    plugs: dict[bool, list[float]] = {False: [], True: []}
    rate = 0.0
    try:
        ground.vswitch.start()
        ground.vswitch.add_bridge("br-int")
        asyncio.run(ground.write())
        with ground.running():
            hostile_vm, other = ground.vm(HOSTILE), ground.vm(OTHER)
            for _ in range(arguments.rounds):
                for flooded in (False, True):
                    flood = inside(hostile_vm, FLOOD, str(arguments.rate), *hostile()) if flooded else None
                    try:
                        time.sleep(1)
                        answer, _ = inside(other, ASK, discover(OTHER), str(arguments.asks)).communicate(timeout=120)
                        asks[flooded] += json.loads(answer)
                        plugs[flooded] += [ground.plug() for _ in range(arguments.plugs)]
                    finally:
                        if flood is not None:
                            flood.terminate()
                            rate = float(flood.communicate()[0].splitlines()[-1])
    finally:
        ground.clear()
    return asks, plugs, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--plugs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20_000)
    arguments = parser.parse_args()
    asks, plugs, rate = measure(arguments)
    table = Table(
        "", "no flood p50 / p95 ms", f"flood of {rate:,.0f} packets/s p50 / p95 ms", "ratio p50", "lost of", box=None
    )
    for name, found in (("DHCP of another VM", asks), ("a plug → ACTIVE", plugs)):
        calm, flooded = (f"{median(it):.1f} / {quantiles(it, n=20)[18]:.1f}" for it in (found[False], found[True]))
        lost = f"{sum(it >= 1000 for it in found[True])} / {len(found[True])}"
        table.add_row(name, calm, flooded, f"{median(found[True]) / median(found[False]):.2f}", lost)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
