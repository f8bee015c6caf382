"""Networks over three regions, with packets: what orchestrators, controllers and tunnels make of ports that come, move and go.

One lab, and one history of it: each test goes on where the last one stopped, for each beginning costs minutes of CI.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from typer.testing import CliRunner

from dragonflow.apps.wiring import REMOTE_PEER
from dragonflow.cli.main import app
from dragonflow.lab import Lab, Vm, system
from dragonflow.lab.stretched import Side, announced, remains
from dragonflow.lab.system import wait_until
from dragonflow.lab.uplink import entered
from dragonflow.lab.vm import Address
from dragonflow.regions.cloud import Cloud
from dragonflow.regions.diagnosis import Finding, diagnose
from dragonflow.regions.reading import read

SOON = 60.0
"""Seconds for what takes one or two on an idle machine."""

FORGED, NARROW = 3, 1400

V4, V6 = "10.30.0.0/24", "fd30::/64"
ONE, TWO, THREE = "region1", "region2", "region3"
BLUE = {ONE: 1001, TWO: 1002, THREE: 1003}
GREEN = {ONE: 1002, TWO: 1001}
"""The segmentation ids: the two networks have each other's, in the other region."""


class Fleet:
    """What tenants and operators do in a lab of three regions."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.sides: dict[tuple[str, str], Side] = {}

    def network(self, name: str, segments: dict[str, int], **mtus: int) -> None:
        """The sides of a network, with subnets that are alike but allocate from pools of their own; some with another MTU."""
        for number, (region, segment) in enumerate(segments.items()):
            with self.lab.region(region).neutron.client() as neutron:
                provider: dict[str, Any] = {"provider:network_type": "geneve", "provider:segmentation_id": segment}
                provider |= {"mtu": mtus[region]} if region in mtus else {}
                network = neutron.post("/networks", json={"network": {"name": name} | provider}).json()["network"]
                for cidr, pattern in ((V4, "10.30.0.{}"), (V6, "fd30::{:x}")):
                    pool = {"start": pattern.format(10 + 50 * number), "end": pattern.format(59 + 50 * number)}
                    body = {"network_id": network["id"], "cidr": cidr, "ip_version": 6 if ":" in cidr else 4}
                    neutron.post("/subnets", json={"subnet": body | {"allocation_pools": [pool]}})
            self.sides[name, region] = Side(region, network["id"], segment)

    def mtu(self, name: str, region: str) -> int:
        """As Neutron has it now."""
        side = self.sides[name, region]
        with self.lab.region(region).neutron.client() as neutron:
            return int(neutron.get(f"/networks/{side.network}").json()["network"]["mtu"])

    def boot(self, name: str, region: str, host: str = "host1", address: Address = "static", **body: Any) -> Vm:
        """A VM with a port of the network."""
        port = {
            "network_id": self.sides[name, region].network,
            "device_owner": "compute:nova",
            "device_id": str(uuid.uuid4()),
        }
        with self.lab.region(region).neutron.client() as neutron:
            made = neutron.post("/ports", json={"port": port | {"binding:host_id": host} | body}).json()["port"]
        return self.lab.plug(made["id"], host, region=region, address=address)

    def change(self, vm: Vm, **body: Any) -> None:
        with self.lab.region(vm.region).neutron.client() as neutron:
            neutron.put(f"/ports/{vm.port_id}", json={"port": body})

    def delete(self, vm: Vm) -> None:
        self.lab.unplug(vm.port_id)
        with self.lab.region(vm.region).neutron.client() as neutron:
            neutron.delete(f"/ports/{vm.port_id}")

    def known(self, name: str, region: str) -> dict[str, str]:
        """The ports of other regions that a region knows, ``REGION/PORT``, and their statuses."""
        return {port["device_id"]: port["status"] for port in announced(self.lab, self.sides[name, region])}

    def tunnels(self, region: str, host: str = "host1") -> dict[str, int]:
        """Where the tunnels of a chassis to others' chassis lead, and how many lead there."""
        table = self.lab.host(host, region).switch.vsctl("--format=json", "--columns=name,options", "list", "Interface")
        found: dict[str, int] = {}
        for name, (_, options) in json.loads(table)["data"]:
            if name.startswith(REMOTE_PEER):
                there = dict(options)["remote_ip"]
                found[there] = found.get(there, 0) + 1
        return found

    def stretch(self, *args: str, code: int = 0) -> Any:
        """What ``dragonflow stretch`` says, as JSON."""
        place = {"OS_CLIENT_CONFIG_FILE": str(self.lab.between.clouds)}
        done = CliRunner().invoke(app, ["stretch", *args, "--json"], env=place)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def found(self) -> list[Finding]:
        """What ``dragonflow stretch diagnose`` would tell."""
        files = [self.lab.between.clouds]
        return diagnose(read([Cloud(region, files=files) for region in self.lab.regions]))

    def causes(self) -> set[str]:
        """What it names."""
        return {finding.cause for finding in self.found()}


def soon(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, SOON, 0.1)


def reach(source: Vm, target: Vm) -> bool:
    """Whether it does, by both IP versions."""
    return all(system.pings(source.netns, ip) for ip in target.ips)


def neighbour(vm: Vm, address: str) -> str:
    """The MAC that a VM has for an address."""
    (entry,) = json.loads(system.run(["ip", "-json", "neigh", "show", address], netns=vm.netns))
    return str(entry["lladdr"])


@pytest.fixture(scope="module")
def fleet(regions: Lab) -> Fleet:
    return Fleet(regions)


@pytest.fixture(scope="module")
def vms(fleet: Fleet) -> dict[str, Vm]:
    """One in each region of either network, stretched as soon as both sides had said so. Tests may put others in their places."""
    fleet.network("blue", BLUE)
    fleet.network("green", GREEN)
    vms = {f"blue {region}": fleet.boot("blue", region) for region in BLUE}
    for region in GREEN:  # green has blue's addresses
        fixed = [{"ip_address": ip} for ip in vms[f"blue {region}"].ips]
        vms[f"green {region}"] = fleet.boot("green", region, fixed_ips=fixed)
    assert all(fleet.tunnels(region) == {} for region in BLUE)
    fleet.stretch("create", *(f"{region}:blue" for region in BLUE))
    fleet.stretch("join", f"{ONE}:green", "--with", f"{TWO}:green")
    assert [it["cause"] for it in fleet.stretch("diagnose", code=2) if it["cause"] == "one-side-not-joined"]
    fleet.stretch("join", f"{TWO}:green", "--with", f"{ONE}:green")
    soon(lambda: all(list(fleet.known("blue", it).values()) == ["ACTIVE"] * 2 for it in BLUE), "blue")
    soon(lambda: all(list(fleet.known("green", it).values()) == ["ACTIVE"] for it in GREEN), "green")
    return vms


def test_ports_are_reached_over_one_tunnel_whatever_the_segments(fleet: Fleet, vms: dict[str, Vm]) -> None:
    for name, regions in (("blue", BLUE), ("green", GREEN)):
        for source, target in combinations(regions, 2):  # the answers take the way back
            assert reach(vms[f"{name} {source}"], vms[f"{name} {target}"]), f"{name}: {source} to {target}"
        here, there = vms[f"{name} {ONE}"], vms[f"{name} {TWO}"]
        assert neighbour(here, there.ips[0]) == there.mac  # and not the one with this address in the other network
    vteps = {region: fleet.lab.host("host1", region).vtep for region in BLUE}
    for region in BLUE:
        assert fleet.tunnels(region) == {vtep: 1 for other, vtep in vteps.items() if other != region}
        assert fleet.tunnels(region, "host2") == {}  # nobody there needs one
    soon(lambda: not fleet.found(), "nothing to find fault with")


def test_changes_follow_their_port(fleet: Fleet, vms: dict[str, Vm]) -> None:
    moving, watcher, third = (vms[f"blue {region}"] for region in BLUE)
    fleet.change(moving, admin_state_up=False)
    soon(lambda: not reach(watcher, moving), "it to be set down")
    fleet.change(moving, admin_state_up=True)
    soon(lambda: reach(watcher, moving), "it to be set up")
    _leaves_its_group(fleet, third, moving)  # green has the addresses of the others
    moving = vms[f"blue {ONE}"] = fleet.lab.migrate(moving.port_id, "host2").vm
    first, second = (fleet.lab.host(host, ONE).vtep for host in ("host1", "host2"))
    soon(lambda: fleet.tunnels(THREE) == {second: 1, fleet.lab.host("host1", TWO).vtep: 1}, "the tunnel to follow")
    both = {first: 1, second: 1, fleet.lab.host("host1", THREE).vtep: 1}  # green is where it was
    soon(lambda: fleet.tunnels(TWO) == both, "the other region's to follow as well")
    assert reach(watcher, moving)
    assert reach(moving, third)
    fleet.delete(third)
    soon(lambda: not fleet.tunnels(THREE), "the tunnels of a chassis without ports to go")
    gone = fleet.lab.host("host1", THREE).vtep
    soon(
        lambda: gone not in fleet.tunnels(TWO) and gone not in fleet.tunnels(ONE, "host2"), "those that led there to go"
    )
    vms[f"blue {THREE}"] = fleet.boot("blue", THREE)
    soon(lambda: gone in fleet.tunnels(ONE, "host2"), "the way to the next one")


def _leaves_its_group(fleet: Fleet, leaving: Vm, member: Vm) -> None:
    """Whoever is in no group of the other region's is let in by nobody there, and status says so; until it is back."""
    with fleet.lab.region(leaving.region).neutron.client() as neutron:
        body = {"security_group": {"name": "strangers"}}
        group = neutron.post("/security-groups", json=body).json()["security_group"]["id"]
        default = neutron.get(f"/ports/{leaving.port_id}").json()["port"]["security_groups"]
    fleet.change(leaving, security_groups=[group])
    soon(lambda: not reach(leaving, member), "a port without its group to be refused")
    soon(lambda: not fleet.found(), "nothing to find fault with")
    said = {it["region"]: it["ungrouped"] for it in fleet.stretch("status")["networks"] if it["name"] == "blue"}
    assert said == {region: int(region != leaving.region) for region in BLUE}
    fleet.change(leaving, security_groups=default)
    soon(lambda: reach(leaving, member), "it to be let in again")


def test_what_is_killed_goes_on_where_it_was(fleet: Fleet, vms: dict[str, Vm]) -> None:
    mine, theirs = vms[f"blue {ONE}"], vms[f"blue {TWO}"]
    before = fleet.tunnels(ONE, mine.host)
    controller = fleet.lab.process(f"controller-{ONE}-{mine.host}")
    controller.kill()
    assert reach(theirs, mine)
    fleet.lab.start(f"controller-{ONE}-{mine.host}")
    fleet.lab.process("orchestrator").kill()
    unheard = fleet.boot("blue", TWO, "host2")
    assert f"{TWO}/{unheard.port_id}" not in fleet.known("blue", ONE)
    fleet.lab.start("orchestrator")
    soon(lambda: fleet.known("blue", ONE).get(f"{TWO}/{unheard.port_id}") == "ACTIVE", "what was missed")
    assert reach(mine, unheard)
    assert fleet.tunnels(ONE, mine.host) == before | {fleet.lab.host("host2", TWO).vtep: 1}  # adopted, not doubled
    neutron = fleet.lab.process(f"neutron-{TWO}")
    neutron.kill()
    assert fleet.causes() >= {"region-api-down"}
    added = fleet.boot("blue", ONE)
    soon(lambda: fleet.known("blue", THREE).get(f"{ONE}/{added.port_id}") == "ACTIVE", "the others to go on")
    assert reach(mine, unheard)
    neutron.start()
    soon(lambda: fleet.known("blue", TWO).get(f"{ONE}/{added.port_id}") == "ACTIVE", "what it missed")
    fleet.delete(unheard)
    soon(lambda: f"{TWO}/{unheard.port_id}" not in fleet.known("blue", ONE), "what is deleted to go")
    assert reach(added, theirs)
    fleet.delete(added)


def test_regions_that_are_cut_apart_say_so_and_heal(fleet: Fleet, vms: dict[str, Vm]) -> None:
    mine, theirs, third = (vms[f"blue {region}"] for region in BLUE)
    key = f"{TWO}/{theirs.port_id}"
    soon(lambda: fleet.known("blue", ONE).get(key) == "ACTIVE", "all to be well before")
    fleet.lab.sever(ONE, TWO)
    soon(lambda: fleet.known("blue", ONE)[key] == "DOWN", "the dead tunnel's port to be DOWN")
    assert not reach(mine, theirs)
    assert reach(mine, third)
    soon(lambda: "tunnel-down" in fleet.causes(), "the cause")
    fleet.lab.sever(ONE, TWO, "tunnels")
    soon(lambda: "underlay-filtered" in fleet.causes(), "the other cause")
    fleet.lab.rejoin(ONE, TWO)
    heard = {ONE: key, TWO: f"{ONE}/{mine.port_id}"}
    soon(
        lambda: all(fleet.known("blue", at)[it] == "ACTIVE" for at, it in heard.items()), "both sides to be heard again"
    )
    assert reach(mine, theirs)
    soon(lambda: not fleet.found(), "nothing to find fault with")


def test_forged_packets_are_dropped(fleet: Fleet, vms: dict[str, Vm]) -> None:
    target, vtep = vms[f"blue {ONE}"], fleet.lab.host("host2", ONE).vtep
    known, stranger = (fleet.lab.host(*each).netns for each in (("host1", TWO), ("host2", THREE)))
    before = _received(target)
    source = vms[f"blue {TWO}"].ips[0]  # whom the target's security group lets in
    _forge(stranger, vtep, BLUE[ONE], target, source)  # a chassis that has no port of the network
    _forge(known, vtep, 4321, target, source)  # one that has, but by another segment
    _forge(
        known, vtep, BLUE[ONE], target, source
    )  # and what any guest there could send: so the others' packets had their time
    soon(lambda: _received(target) >= before + FORGED, "what may come in")
    assert _received(target) == before + FORGED


@pytest.fixture(scope="module")
def claimants(fleet: Fleet) -> tuple[Vm, Vm]:
    """The older and the younger one of two VMs with one address, on either side of a network that was stretched afterwards."""
    fleet.network("red", {ONE: 1011, TWO: 1011}, **{TWO: NARROW})
    older, younger = (fleet.boot("red", region, fixed_ips=[{"ip_address": "10.30.0.200"}]) for region in (ONE, TWO))
    fleet.stretch("create", f"{ONE}:red", f"{TWO}:red")
    return older, younger


def test_an_address_that_both_sides_gave_away_is_reported(fleet: Fleet, claimants: tuple[Vm, Vm]) -> None:
    older, younger = claimants
    soon(lambda: "address-overlap" in fleet.causes(), "the conflict")
    assert f"{TWO}/{younger.port_id}" not in fleet.known("red", ONE)
    fleet.delete(younger)
    soon(lambda: f"{ONE}/{older.port_id}" in fleet.known("red", TWO), "the older claim")


@pytest.mark.usefixtures("claimants")
def test_guests_of_all_sides_send_no_more_than_the_narrowest_takes(fleet: Fleet) -> None:
    soon(lambda: fleet.mtu("red", ONE) == NARROW, "the MTU to be lowered")
    wide = fleet.boot("red", ONE, address="dhcp")
    narrow = fleet.boot("red", TWO, address="dhcp")
    assert f"mtu {NARROW} " in fleet.lab.exec(wide.port_id, "ip", "link", "show", "eth0").stdout
    full = ("-M", "do", "-s", str(NARROW - 28))
    soon(lambda: system.pings(wide.netns, narrow.ips[0], *full), "a full frame to be answered on the other side")
    fleet.delete(wide)
    fleet.delete(narrow)


@pytest.mark.usefixtures("vms", "claimants")
def test_nothing_is_left_of_what_is_left(fleet: Fleet) -> None:
    for name, region in (("red", ONE), ("green", TWO), ("blue", ONE), ("blue", TWO)):
        fleet.stretch("leave", f"{region}:{name}")
    soon(lambda: not remains(fleet.lab, fleet.sides.values()), "nothing to be left")
    for region in BLUE:
        with fleet.lab.region(region).neutron.client() as neutron:
            assert neutron.get("/ports", params={"device_owner": "dragonflow:remote_port"}).json()["ports"] == []
    soon(lambda: fleet.mtu("red", ONE) == fleet.mtu("blue", ONE) > NARROW, "the network's own MTU to be back")


def _received(vm: Vm) -> int:
    """How many echo requests a VM has had."""
    with entered(str(system.NETNS_DIR / vm.netns)):
        lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == "Icmp:")
    return int(dict(zip(names, values, strict=True))["InEchos"])


def _forge(netns: str, vtep: str, vni: int, target: Vm, source: str) -> None:
    """Send tunnelled pings from a host itself, as whoever has broken into it might, under another guest's address."""
    inner = Ether(src="02:00:00:00:be:ef", dst=target.mac) / IP(src=source, dst=target.ips[0]) / ICMP()
    packet = bytes(GENEVE(vni=vni, proto=0x6558) / inner)
    with entered(str(system.NETNS_DIR / netns)):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(FORGED):
            sender.sendto(packet, (vtep, 6081))
