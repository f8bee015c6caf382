"""Packets between VMs, and what Neutron and Nova hear of it: the main job, on real parts from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from dragonflow.lab import Lab, scenario
from dragonflow.lab.drawing import draw
from dragonflow.lab.system import wait_until

from .conftest import HOSTS, Cloud

CIDRS = ("10.1.0.0/24", "fd01::/64")

pytestmark = pytest.mark.usefixtures("audited")


def ips(port: dict[str, object]) -> tuple[str, str]:
    """The IPv4 and the IPv6 address of a port."""
    v4, v6 = sorted((fixed["ip_address"] for fixed in port["fixed_ips"]), key=lambda ip: ":" in ip)  # type: ignore[attr-defined]
    return v4, v6


def test_the_demo_comes_out_as_it_should(lab: Lab, cloud: Cloud, neutron: httpx.Client) -> None:
    machines = scenario.make_tenants(lab)
    try:
        for machine in machines:
            scenario.plug(lab, machine)
        reached = scenario.ping_all(machines)
        scenario.collect_events(lab, machines)
        scenario.collect_places(lab, machines)
        assert scenario.failures(lab, machines, reached) == []
        hosts = [(host.name, host.vtep) for host in lab.region().hosts.values()]
        drawing = draw(hosts, machines, reached, failures=0)
        texts = {element.text for element in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")}
        assert {machine.name for machine in machines} | set(HOSTS) <= texts
    finally:
        for vm in lab.vms:
            lab.unplug(vm)
        networks = {neutron.get(f"/ports/{machine.port_id}").json()["port"]["network_id"] for machine in machines}
        for machine in machines:
            neutron.delete(f"/ports/{machine.port_id}")
        for network in networks:
            neutron.delete(f"/networks/{network}")


def test_the_demo_sees_what_is_not_as_it_should_be() -> None:
    hosts = {name: SimpleNamespace(vtep="") for name in HOSTS}
    lab: Any = SimpleNamespace(region=lambda: SimpleNamespace(hosts=hosts))
    machines = []
    for tenant in scenario.TENANTS:
        machine = scenario.Machine(f"{tenant.name}-1", tenant, "net", tenant.name, "host1", {}, active=0.1, nova=0.1)
        machine.places = {"host1": "local"}
        machines.append(machine)
    amber, blue = machines
    reached = {(a.name, b.name, v): False for a in machines for b in machines for v in scenario.FAMILIES if a is not b}
    assert scenario.failures(lab, machines, reached) == []
    reached[amber.name, blue.name, 6] = True
    blue.nova = None
    amber.active = None
    amber.places["host2"] = "remote"
    assert scenario.failures(lab, machines, reached) == [
        "amber-1: its port is DOWN, not ACTIVE, 30 s after the plug",
        "amber-1: the controller of host2 has it as 'remote', not 'none'",
        "blue-1: Nova got no network-vif-plugged",
        "amber-1 reaches blue-1 by IPv6",
    ]
    assert "4 not as it should be" in draw([("host1", "198.18.1.1")], machines, reached, failures=4)


MULTICAST = "ff02::1%eth0"


@pytest.mark.parametrize("target", ["host1", "host2"])
def test_full_frames_and_tcp_pass_within_and_between_hosts(
    lab: Lab, cloud: Cloud, ping: Callable[..., bool], target: str
) -> None:
    network = cloud.network(*CIDRS)
    one, two = cloud.port(network, "host1"), cloud.port(network, target)
    here, there = cloud.plug(one), cloud.plug(two)
    wait_until(lambda: cloud.active(one, two), "both ACTIVE", 20)
    v4, v6 = ips(two)
    assert ping(here, v4, "-M", "do", "-s", str(network["mtu"] - 28))
    assert ping(here, v6, "-M", "do", "-s", str(network["mtu"] - 48))
    assert lab.exec(there.port_id, "iperf3", "--server", "--one-off", "--daemon").returncode == 0
    listening = re.compile(r"LISTEN.*:5201")
    wait_until(lambda: bool(listening.search(lab.exec(there.port_id, "ss", "-ltn").stdout)), "iperf3 to listen", 10)
    done = lab.exec(here.port_id, "iperf3", "--json", "--client", v6, "--bytes", "5M")
    report = json.loads(done.stdout)
    # What is under way when the client ends doesn't count as received.
    assert report["end"]["sum_received"]["bytes"] > 1_000_000, report.get("error")


def test_multicast_reaches_every_vm_of_the_network_once(lab: Lab, cloud: Cloud) -> None:
    network, other = cloud.network(*CIDRS), cloud.network(*CIDRS)
    ports = [cloud.port(network, host) for host in (*HOSTS, "host1")]
    stranger = cloud.port(other, "host1")
    for port in (*ports, stranger):
        cloud.plug(port)
    wait_until(lambda: cloud.active(*ports, stranger), "all ACTIVE", 20)
    before = [asked(lab, port) for port in (*ports[1:], stranger)]
    lab.exec(ports[0]["id"], "ping", "-6", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-I", ips(ports[0])[1], MULTICAST)
    wanted = [was + more for was, more in zip(before, (3, 3, 3, 0), strict=True)]
    wait_until(lambda: [asked(lab, port) for port in (*ports[1:], stranger)] == wanted, "each question once", 10)


def asked(lab: Lab, port: dict[str, Any]) -> int:
    """How many ICMPv6 echo requests a guest has got. Answers to multicast are none that its firewall expects."""
    (found,) = re.findall(r"(?m)^Icmp6InEchos\s+(\d+)$", lab.exec(port["id"], "cat", "/proc/net/snmp6").stdout)
    return int(found)


def test_unplugging_tells_neutron_and_nova(lab: Lab, cloud: Cloud) -> None:
    port = cloud.port(cloud.network(*CIDRS), "host2")

    def told(event: str) -> int:
        return sum(each["name"] == event and each.get("tag") == port["id"] for each in lab.nova_events())

    cloud.plug(port)
    wait_until(lambda: cloud.active(port), "ACTIVE", 20)
    lab.unplug(port["id"])
    wait_until(lambda: cloud.get(port["id"])["status"] == "DOWN", "DOWN", 20)
    cloud.plug(port)
    wait_until(lambda: cloud.active(port), "ACTIVE again", 20)
    wait_until(lambda: (told("network-vif-plugged"), told("network-vif-unplugged")) == (2, 1), "Nova's events", 20)


def test_a_vm_that_moves_to_another_host_is_found_there(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    network = cloud.network(*CIDRS)
    still, moving = cloud.port(network, "host1"), cloud.port(network, "host2")
    watcher = cloud.plug(still)
    cloud.plug(moving)
    wait_until(lambda: cloud.active(still, moving), "both ACTIVE", 20)
    assert ping(watcher, ips(moving)[0])
    lab.unplug(moving["id"])
    neutron.put(f"/ports/{moving['id']}", json={"port": {"binding:host_id": "host3"}})
    lab.plug(moving["id"], "host3")
    wait_until(lambda: cloud.active(moving), "ACTIVE on the new host", 20)
    wait_until(lambda: ping(watcher, ips(moving)[0]) and ping(watcher, ips(moving)[1]), "answers from the new host", 10)


def test_a_port_without_a_chassis_is_not_bound(cloud: Cloud) -> None:
    port = cloud.port(cloud.network(*CIDRS), "host77")
    assert port["binding:vif_type"] == "binding_failed"


def test_chassis_are_agents(lab: Lab, neutron: httpx.Client) -> None:
    agents = {each["host"]: each for each in neutron.get("/agents").json()["agents"]}
    assert set(agents) == set(HOSTS)
    for host in lab.region().hosts.values():
        assert agents[host.name]["alive"]
        assert agents[host.name]["configurations"]["tunneling_ip"] == host.vtep


def test_every_flow_can_be_explained(lab: Lab, cloud: Cloud) -> None:
    network = cloud.network("10.1.0.0/24", "fd01::/64")
    ports = [cloud.port(network, host) for host in ("host1", "host2")]
    for port in ports:
        cloud.plug(port)
    wait_until(lambda: cloud.active(*ports), "ACTIVE", 20)
    flows = lab.host("host1").switch.ofctl("dump-flows", "br-int")
    dragonflow = Path(sys.executable).with_name("dragonflow")
    explain = [dragonflow, "explain", "--json", "--store-url", lab.region().store.url]
    done = subprocess.run(explain, input=flows, capture_output=True, text=True, check=True)
    explained = json.loads(done.stdout)
    assert len(explained) == flows.count("actions=")
    assert [entry["flow"] for entry in explained if entry["app"] is None] == []
    assert {port["id"] for port in ports} <= {entry["id"] for entry in explained}
