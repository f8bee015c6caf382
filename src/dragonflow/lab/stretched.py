"""The story of `make demo` as data: one network over two regions, each region with a Neutron, a DF DB and two chassis of its own.

Each step asks the real parts and returns what they answered; whether that is as it should be, ``failures`` says.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

from dragonflow.apps.wiring import REMOTE_PEER
from dragonflow.lab import system
from dragonflow.lab.host import INTEGRATION_BRIDGE
from dragonflow.lab.lab import Lab
from dragonflow.lab.matrix import Matrix
from dragonflow.lab.scenario import FAMILIES, IPV4, IPV6
from dragonflow.lab.state import Vm
from dragonflow.lab.system import TimedOut, wait_until
from dragonflow.model import LogicalPort, decode, remote_vtep
from dragonflow.regions import marks
from dragonflow.regions.cloud import Cloud
from dragonflow.regions.consent import Place
from dragonflow.regions.view import OWNER
from dragonflow.store import open_store
from dragonflow.store.protocol import EVERYTHING

NETWORK = "blue"
SUBNETS = {IPV4: ("10.20.0.0/24", "10.20.0.1", "10.20.0.{}"), IPV6: ("fd20::/64", "fd20::1", "fd20::{:x}")}
"""CIDR, gateway, and the pattern of addresses: the same in all regions, for it is to be one network."""

SHARE = 60
"""How many addresses of a subnet a region gives out by itself: so two regions never give out the same."""

ACTIVE_TIMEOUT = 30.0
REACHED_TIMEOUT = 60.0
LEFT_TIMEOUT = 60.0
PROBE_INTERVAL = 0.005
"""Seconds between two pings while a VM moves."""

MOST_LOST = 3.0
"""Seconds without an answer, beyond the pause of the guest itself, that a live migration may cost."""


class Side(NamedTuple):
    """The network in one region."""

    region: str
    network: str
    segmentation_id: int


@dataclass
class Guest:
    """A VM of the demo. ``active`` is in seconds from its plug; None: it didn't happen in time."""

    name: str
    region: str
    host: str
    port_id: str
    ips: dict[int, str]
    vm: Vm
    status: str = "DOWN"
    active: float | None = None


class Moved(NamedTuple):
    """A live migration under pings from the other region, times in seconds."""

    guest: str
    source: str
    host: str
    watcher: str
    paused: float
    silent: float
    sent: int


Reached = dict[tuple[str, str, int], bool]
"""(from, to, IP version) → whether a ping came back."""


@dataclass
class Story:
    """All that is seen, as far as it has come. Times are in seconds; None: it didn't happen in time."""

    sides: list[Side] = field(default_factory=list)
    guests: list[Guest] = field(default_factory=list)
    apart: Reached = field(default_factory=dict)
    joined: Reached = field(default_factory=dict)
    left: Reached = field(default_factory=dict)
    joined_after: float | None = None
    left_after: float | None = None
    tunnels: list[str] = field(default_factory=list)
    moved: Moved | None = None
    remains: list[str] = field(default_factory=list)


def make_sides(lab: Lab) -> list[Side]:
    """Make the network in each region, through that region's Neutron: same subnets and gateway, but pools of their own."""
    return [_side(lab, region.name, 10 + SHARE * number) for number, region in enumerate(lab.regions.values())]


def _side(lab: Lab, region: str, first: int) -> Side:
    with lab.region(region).neutron.client() as neutron:
        network = neutron.post("/networks", json={"network": {"name": NETWORK}}).json()["network"]
        for version in FAMILIES:
            cidr, gateway, pattern = SUBNETS[version]
            pool = {"start": pattern.format(first), "end": pattern.format(first + SHARE - 1)}
            body = {"network_id": network["id"], "ip_version": version, "cidr": cidr, "gateway_ip": gateway}
            neutron.post("/subnets", json={"subnet": body | {"allocation_pools": [pool]}})
    return Side(region, network["id"], network["provider:segmentation_id"])


def boot(lab: Lab, side: Side, host: str, name: str) -> Guest:
    """A VM with a port of the network on a host, as Nova makes one; returns once Neutron shows the port ACTIVE, or doesn't."""
    with lab.region(side.region).neutron.client() as neutron:
        owner = {"device_id": str(uuid.uuid4()), "device_owner": "compute:nova", "binding:host_id": host}
        port = neutron.post("/ports", json={"port": {"network_id": side.network, "name": name} | owner}).json()["port"]
        vm = lab.plug(port["id"], host, region=side.region)
        ips = {(IPV6 if ":" in ip else IPV4): ip for ip in vm.ips}
        guest = Guest(name, side.region, host, port["id"], ips, vm)

        def active() -> bool:
            guest.status = neutron.get(f"/ports/{guest.port_id}").json()["port"]["status"]
            return guest.status == "ACTIVE"

        try:
            wait_until(active, f"port {guest.port_id} to be ACTIVE", ACTIVE_TIMEOUT, 0.01)
        except TimedOut:
            return guest
    guest.active = time.time() - vm.plugged
    return guest


def join(lab: Lab, sides: Sequence[Side]) -> None:
    """Have each side name each other, as ``dragonflow stretch create`` does."""
    for side, peer in permutations(sides, 2):
        marks.join(_cloud(lab, side.region), Place(side.region, side.network), Place(peer.region, peer.network))


def leave(lab: Lab, side: Side) -> None:
    """Have a side name nobody any more, as ``dragonflow stretch leave`` does."""
    cloud = _cloud(lab, side.region)
    marks.leave(cloud, marks.find({side.region: cloud}, marks.Wanted(side.region, side.network)))


def _cloud(lab: Lab, region: str) -> Cloud:
    return Cloud(region, files=[lab.between.clouds])


def announced(lab: Lab, side: Side) -> list[dict[str, Any]]:
    """The ports that stand in a region for those of other regions, as its Neutron shows them."""
    with lab.region(side.region).neutron.client() as neutron:
        wanted = {"network_id": side.network, "device_owner": OWNER}
        found: list[dict[str, Any]] = neutron.get("/ports", params=wanted).json()["ports"]
        return found


def wait_until_joined(lab: Lab, sides: Sequence[Side], guests: Sequence[Guest]) -> float | None:
    """Wait until every region shows the ports of the others as ACTIVE; returns the seconds it took, None if it didn't happen."""
    began = time.monotonic()

    def complete() -> bool:
        return all(
            {port["device_id"] for port in announced(lab, side) if port["status"] == "ACTIVE"}
            == {f"{guest.region}/{guest.port_id}" for guest in guests if guest.region != side.region}
            for side in sides
        )

    try:
        wait_until(complete, "every region to know the ports of the others", REACHED_TIMEOUT, 0.05)
    except TimedOut:
        return None
    return time.monotonic() - began


def ping_all(guests: Sequence[Guest], workers: int = 12) -> Reached:
    """Ping from every VM to every other one, by both IP versions."""
    jobs = [
        (source, target, version)
        for source in guests
        for target in guests
        for version in FAMILIES
        if source is not target
    ]
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda job: system.pings(job[0].vm.netns, job[1].ips[job[2]]), jobs)
    return {
        (source.name, target.name, version): ok for (source, target, version), ok in zip(jobs, results, strict=True)
    }


def move(lab: Lab, guest: Guest, host: str, watcher: Guest) -> Moved:
    """Migrate a VM to another host of its region, while a VM of the other region pings it by both IP versions."""
    source = guest.host
    with Matrix([(watcher.vm, guest.vm, ip) for ip in guest.ips.values()], PROBE_INTERVAL) as matrix:
        began = time.monotonic()
        moved = lab.migrate(guest.port_id, host)
        losses, sent = matrix.lost(began), matrix.sent(began)
    guest.vm, guest.host = moved.vm, host
    silent = max((loss.seconds for loss in losses), default=0.0)
    return Moved(guest.name, source, host, watcher.name, moved.paused, silent, sent)


def tunnels(lab: Lab) -> list[str]:
    """The tunnel interfaces to chassis of other regions, as the switches have them: ``REGION HOST: INTERFACE``."""
    return [
        f"{region.name} {host.name}: {port}"
        for region in lab.regions.values()
        for host in region.hosts.values()
        for port in host.switch.vsctl("list-ports", INTEGRATION_BRIDGE).split()
        if port.startswith(REMOTE_PEER)
    ]


def wait_until_left(lab: Lab, sides: Sequence[Side]) -> float | None:
    """Wait until nothing of the other regions is left; returns the seconds it took, None if something stays."""
    began = time.monotonic()
    try:
        wait_until(lambda: not remains(lab, sides), "nothing of the stretch to be left", LEFT_TIMEOUT, 0.2)
    except TimedOut:
        return None
    return time.monotonic() - began


def remains(lab: Lab, sides: Iterable[Side]) -> list[str]:
    """What is left of other regions, in words: ports in Neutron, rows in the DF DB, and tunnels in Open vSwitch."""
    found = [f"{side.region}: port {port['id']}" for side in sides for port in announced(lab, side)]
    for region in lab.regions.values():
        rows = asyncio.run(_remote_rows(region.store.url))
        found += [f"{region.name}: row of port {port.id}" for port in rows]
    return found + tunnels(lab)


async def _remote_rows(url: str) -> list[LogicalPort]:
    store = open_store(url, create=False)
    try:
        records = (await store.snapshot([EVERYTHING])).records
    finally:
        await store.close()
    kind = LogicalPort.__name__
    ports = (
        decode(kind, it.key.id, it.data, it.key.scope) for it in records if it.key.kind == kind and it.data is not None
    )
    return [port for port in ports if isinstance(port, LogicalPort) and remote_vtep(port.chassis) is not None]


def failures(story: Story) -> list[str]:
    """What isn't as it should be, in words; empty when all is well."""
    found = [
        f"{guest.name}: its port is {guest.status}, not ACTIVE, {ACTIVE_TIMEOUT:.0f} s after the plug"
        for guest in story.guests
        if guest.active is None
    ]
    region = {guest.name: guest.region for guest in story.guests}
    for when, reached, stretched in (
        ("before they are joined", story.apart, False),
        ("joined", story.joined, True),
        ("after one side has left", story.left, False),
    ):
        for (source, target, version), ok in reached.items():
            if ok != wanted(region, source, target, stretched=stretched):
                found.append(f"{when}, {source} {'reaches' if ok else 'does not reach'} {target} by IPv{version}")
    if story.joined_after is None:
        found.append(f"not every port of the other region was ACTIVE within {REACHED_TIMEOUT:.0f} s")
    if story.moved is not None and story.moved.silent > story.moved.paused + MOST_LOST:
        found.append(f"{story.moved.guest} did not answer for {story.moved.silent:.2f} s while it moved")
    return found + [f"left behind: {each}" for each in story.remains]


def wanted(region: Mapping[str, str], source: str, target: str, *, stretched: bool) -> bool:
    """Whether one VM should reach another: within its region always, and beyond while the network is stretched."""
    return stretched or region[source] == region[target]
