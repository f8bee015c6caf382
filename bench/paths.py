"""What a packet's way costs: within a network, routed, and to a machine outside under a floating IP or the router's own address.

    .venv/bin/python bench/paths.py [--rounds 3] [--seconds 3] [--json]

A lab of two hosts with a real Neutron; OVS runs in user space, so its threads share the processors with the guests, iperf3 and
all else. The ways take turns, ``--rounds`` times, and the median counts: single numbers say little, ratios to the first way more.
Needs root.

- first ms: a ping right after all flows of the data path were deleted, so that ovs-vswitchd has to work the way out
- ping ms: the median of 200 pings after that, 5 ms apart
- Mbit/s: iperf3, one TCP connection from the first VM to the second
- connections/s: TCP connections opened and closed one after the other by one client
- flows, passes, recirculations: the flows of all hosts' data paths while the first VM pings; packets that come in there, and that
  go round once more, for a ping and its answer. What the hosts say to each other besides is in it; the physical network's own
  switch isn't.
- router add subnet: from sending the request to Neutron until the first ping through the router comes back, each time on new
  networks; of which Neutron's own answer takes the time beside it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from dragonflow.cli.common import read
from dragonflow.lab import Lab, Vm, system
from dragonflow.lab.system import wait_until
from dragonflow.model import PortStatus

NAME = "paths"
PINGS = 200
PORT = 5201

CONNECT = """
import socket, sys, time
end, count = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    socket.create_connection((sys.argv[1], 5202), 5).close()
    count += 1
print(count / float(sys.argv[2]))
"""
ACCEPT = """
import socket
with socket.create_server(("", 5202), backlog=512) as server:
    while True:
        server.accept()[0].close()
"""


OUTSIDE = "203.0.113.1"
EXTERNAL = {
    "router:external": True,
    "provider:network_type": "vlan",
    "provider:physical_network": "physnet1",
    "provider:segmentation_id": 150,
}


class Way(NamedTuple):
    """From a VM to an address in another namespace."""

    name: str
    source: Vm
    target: str
    address: str


class Found(NamedTuple):
    """One round of a way; see the head of this file."""

    first: float
    ping: float
    mbits: float
    connections: float
    flows: float
    passes: float
    recirculations: float


class Cloud:
    """Networks, routers and VMs made through Neutron's API."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._neutron = lab.region().neutron.client()

    def make(self, kind: str, **body: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._neutron.post(f"/{kind}s", json={kind: body}).json()[kind]
        return made

    def network(self, cidr: str, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        network = self.make("network", name=cidr, **body)
        return network, self.make("subnet", network_id=network["id"], cidr=cidr, ip_version=4)

    def vm(self, network: dict[str, Any], host: str) -> Vm:
        """On return its port is ACTIVE."""
        owner = {"device_owner": "compute:nova", "device_id": str(uuid.uuid4()), "binding:host_id": host}
        port = self.make("port", network_id=network["id"], **owner)
        vm = self.lab.plug(port["id"], host)
        wait_until(lambda: self._status(port["id"]) == "ACTIVE", "the port to be ACTIVE", 30, 0.05)
        return vm

    def join(self, router: dict[str, Any], subnet: dict[str, Any]) -> None:
        """``openstack router add subnet``."""
        self._neutron.put(f"/routers/{router['id']}/add_router_interface", json={"subnet_id": subnet["id"]})

    def serving(self, router: dict[str, Any]) -> str | None:
        """The host that serves the router's gateway."""
        ports = self._neutron.get("/ports", params={"device_id": router["id"]}).json()["ports"]
        (gateway,) = (port["id"] for port in ports if port["device_owner"] == "network:router_gateway")
        rows = read(self.lab.region().store.url).of(PortStatus)
        return next((row.chassis for row in rows if (row.id, row.status) == (gateway, "ACTIVE")), None)

    def _status(self, port: str) -> str:
        return str(self._neutron.get(f"/ports/{port}").json()["port"]["status"])


def ways(cloud: Cloud) -> list[Way]:
    (near, near_subnet), (far, far_subnet) = cloud.network("10.81.0.0/24"), cloud.network("10.82.0.0/24")
    outer, _ = cloud.network("203.0.113.0/24", **EXTERNAL)
    outside = cloud.lab.peer("outside", f"{OUTSIDE}/24", vlan=150)
    router = cloud.make("router", name="paths", external_gateway_info={"network_id": outer["id"]})
    for subnet in (near_subnet, far_subnet):
        cloud.join(router, subnet)
    one, beside, away = (cloud.vm(near, host) for host in ("host1", "host1", "host2"))
    routed, routed_away = (cloud.vm(far, host) for host in ("host1", "host2"))
    known = cloud.vm(near, "host1")
    cloud.make("floatingip", floating_network_id=outer["id"], port_id=known.port_id)
    wait_until(lambda: cloud.serving(router) is not None, "the gateway to be served", 30)
    at_gateway, elsewhere = (one, away) if cloud.serving(router) == "host1" else (away, one)
    return [
        Way("same network, same chassis", one, beside.netns, beside.ips[0]),
        Way("same network, two chassis", one, away.netns, away.ips[0]),
        Way("routed, same chassis", one, routed.netns, routed.ips[0]),
        Way("routed, two chassis", one, routed_away.netns, routed_away.ips[0]),
        Way("floating IP", known, outside, OUTSIDE),
        Way("SNAT, on the gateway's chassis", at_gateway, outside, OUTSIDE),
        Way("SNAT, from another chassis", elsewhere, outside, OUTSIDE),
    ]


def ping(lab: Lab, way: Way, count: int, interval: float = 0.005) -> list[float]:
    """Round trips in ms, of those that came back."""
    options = ("-n", "-c", str(count), "-i", str(interval), "-W", "2")
    shown = lab.exec(way.source.port_id, "ping", *options, way.address, timeout=120).stdout
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", shown)]


def reaches(lab: Lab, way: Way) -> bool:
    return bool(ping(lab, way, 1))


@contextmanager
def serving(netns: str, *command: str) -> Iterator[None]:
    process = subprocess.Popen([*system.inside(netns), *command], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)  # nothing says when it listens; a client that comes too early fails
        yield
    finally:
        process.kill()
        process.wait()


def measure(lab: Lab, way: Way, seconds: float) -> Found:
    ping(lab, way, 3)  # the guests know each other's MACs now
    for host in lab.region().hosts.values():
        host.switch.appctl("revalidator/purge")
    (first,) = ping(lab, way, 1)
    steady = median(ping(lab, way, PINGS))
    with serving(way.target, "iperf3", "-s", "-p", str(PORT)):
        options = ("-c", way.address, "-p", str(PORT), "-t", str(seconds), "-J")
        report = json.loads(lab.exec(way.source.port_id, "iperf3", *options, timeout=60).stdout)
        mbits = report["end"]["sum_received"]["bits_per_second"] / 1e6
    with serving(way.target, sys.executable, "-c", ACCEPT):
        shown = lab.exec(way.source.port_id, sys.executable, "-c", CONNECT, way.address, str(seconds)).stdout
    return Found(first, steady, mbits, float(shown), *through_the_data_path(lab, way))


def through_the_data_path(lab: Lab, way: Way) -> tuple[float, float, float]:
    """Flows on all hosts while pings go; packets that come in there, and that go round once more, for each of these pings."""
    switches = [host.switch for host in lab.region().hosts.values()]
    for switch in switches:
        switch.appctl("revalidator/purge")
        switch.appctl("dpif-netdev/pmd-stats-clear")
    came_back = len(ping(lab, way, PINGS))
    flows = sum(int(it) for switch in switches for it in re.findall(r"flows: (\d+)", switch.appctl("dpctl/show")))
    shown = "".join(switch.appctl("dpif-netdev/pmd-stats-show") for switch in switches)
    received, again = (
        sum(int(it) for it in re.findall(rf"packet{what}: (\d+)", shown)) for what in ("s received", " recirculations")
    )
    return flows, received / came_back, again / came_back


def joining(cloud: Cloud, number: int) -> tuple[float, float]:
    """Seconds from `router add subnet` to the first ping, and until Neutron answered."""
    (near, near_subnet), (far, far_subnet) = (cloud.network(f"10.9{side}.{number}.0/24") for side in (0, 1))
    router = cloud.make("router", name=f"joining {number}")
    cloud.join(router, near_subnet)
    source, target = cloud.vm(near, "host1"), cloud.vm(far, "host2")
    way = Way("", source, target, target.ips[0])
    began = time.monotonic()
    cloud.join(router, far_subnet)
    answered = time.monotonic() - began
    wait_until(lambda: reaches(cloud.lab, way), "the first ping through the router", 30, 0.0)
    return time.monotonic() - began, answered


def collect(lab: Lab, rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    cloud = Cloud(lab)
    all_ways = ways(cloud)
    for way in all_ways:
        wait_until(lambda way=way: reaches(lab, way), way.name, 30)  # type: ignore[misc]
    found: dict[str, list[Found]] = {way.name: [] for way in all_ways}
    for number in range(1, rounds + 1):
        for way in all_ways:
            found[way.name].append(measure(lab, way, seconds))
            say(f"round {number}: {way.name}")
    joined = [joining(cloud, number) for number in range(1, rounds + 1)]
    return {
        "ways": {
            name: Found(*(median(column) for column in zip(*measured, strict=True)))._asdict()
            for name, measured in found.items()
        },
        "router_add_subnet_s": median(seconds for seconds, _ in joined),
        "of_which_neutron_s": median(seconds for _, seconds in joined),
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="A packet's way, and its ratio to the first", title_justify="left", header_style="bold")
    table.add_column("way")
    for column in ("first ms", "ping ms", "Mbit/s", "connections/s", "flows", "passes", "recirculations"):
        table.add_column(column, justify="right")
    base = next(iter(result["ways"].values()))
    for name, measured in result["ways"].items():
        ratios = (f"{measured[it]:.3g} ({measured[it] / base[it]:.2f})" for it in Found._fields[:4])
        table.add_row(name, *ratios, *(f"{measured[it]:.3g}" for it in Found._fields[4:]))
    console.print(table)
    console.print(
        f"router add subnet → first ping: {result['router_add_subnet_s']:.2f} s, "
        f"of which Neutron's answer {result['of_which_neutron_s']:.2f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of iperf3, and of connecting, each time")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=chosen.json)
    console.print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    lab = Lab.up(NAME, hosts=2, progress=console.print)
    try:
        result = collect(lab, chosen.rounds, chosen.seconds, console.print)
    finally:
        lab.down()
    if chosen.json:
        print(json.dumps(result))
    else:
        show(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
