"""A trunk, from Neutron's API to the packets of its child on another network."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest

from dragonflow.lab import Lab, system
from dragonflow.lab.host import Host
from dragonflow.lab.migration import plugged_events
from dragonflow.lab.system import wait_until
from dragonflow.lab.tags import TaggingGuest
from dragonflow.lab.vm import attach, interface_of, remove

from .conftest import Cloud
from .test_migration import BEYOND_PAUSE

pytestmark = pytest.mark.usefixtures("audited")


def ip(port: dict[str, Any]) -> str:
    return str(port["fixed_ips"][0]["ip_address"])


class Guest:
    """A guest with a trunk on a host: ``of`` are the namespaces of its ports by their tags, the parent's by None."""

    def __init__(self, host: Host, parent: dict[str, Any], child: dict[str, Any], vlan: int) -> None:
        self._host, self._parent, self._tap = host, parent, interface_of(parent["id"])
        ports = {None: parent, vlan: child}
        self.of = {tag: f"{host.netns}-{tag or 0}" for tag in ports}
        for netns in self.of.values():
            system.netns_add(netns)
        ends = {tag: (netns, ports[tag]["mac_address"]) for tag, netns in self.of.items()}
        self._guest = TaggingGuest(host.switch, self._tap, ends)
        for tag, netns in self.of.items():
            system.ip(netns, f"address add {ip(ports[tag])}/24 dev eth0")

    def plug(self) -> None:
        attach(self._host, self._tap, self._parent)

    def unplug(self) -> None:
        self._host.switch.vsctl("--if-exists", "del-port", "br-int", self._tap)

    def remove(self) -> None:
        self.unplug()
        self._guest.remove()
        for netns in self.of.values():
            remove(netns)


def watch(netns: str, target: str, interval: float) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", netns, "ping", "-n", "-D", "-i", str(interval), target]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answers(watching: subprocess.Popen[str]) -> tuple[int, float]:
    """How many pings got no answer (of the last, nobody knows), and the longest time between two answers, in seconds."""
    watching.send_signal(signal.SIGINT)
    said = watching.communicate()[0]
    ((sent, got),) = re.findall(r"(\d+) packets transmitted, (\d+) received", said)
    times = [float(it) for it in re.findall(r"^\[([\d.]+)\].* time=", said, re.MULTILINE)]
    return max(0, int(sent) - int(got) - 1), max(after - before for before, after in pairwise(times))


def test_a_child_comes_goes_is_limited_and_moves_while_its_parent_talks(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    near, far = cloud.network("10.1.0.0/24"), cloud.network("10.2.0.0/24")
    parent, child = cloud.port(near, "host1"), cloud.port(far)
    one, two, three = cloud.port(near, "host2"), cloud.port(far, "host3"), cloud.port(far, "host2")
    subports = [{"port_id": child["id"], "segmentation_type": "vlan", "segmentation_id": 101}]
    trunk = cloud.trunk(port_id=parent["id"], sub_ports=subports)
    vms = [cloud.plug(port) for port in (one, two, three)]
    host = lab.host("host1")

    def status() -> str:
        return str(neutron.get(f"/trunks/{trunk['id']}").json()["trunk"]["status"])

    with contextlib.ExitStack() as stack:
        guest = Guest(host, parent, child, 101)
        stack.callback(guest.remove)
        assert status() == "DOWN"
        guest.plug()
        wait_until(lambda: status() == "ACTIVE" and cloud.active(parent, child), "trunk and ports ACTIVE", 20)
        shown = cloud.get(child["id"])
        assert (shown["binding:host_id"], shown["device_owner"]) == ("host1", "trunk:subport")
        assert ping(vms[0], ip(parent))
        assert ping(vms[1], ip(child))
        assert not ping(vms[0], ip(child)), "they are on two networks"
        watching = watch(guest.of[None], ip(one), 0.02)
        neutron.put(f"/trunks/{trunk['id']}/remove_subports", json={"sub_ports": [{"port_id": child["id"]}]})
        wait_until(lambda: status() == "ACTIVE" and cloud.get(child["id"])["status"] == "DOWN", "the child to go", 20)
        assert cloud.get(child["id"])["binding:host_id"] == ""
        assert not ping(vms[1], ip(child))
        neutron.put(f"/trunks/{trunk['id']}/add_subports", json={"sub_ports": subports})
        wait_until(lambda: status() == "ACTIVE" and cloud.active(child), "the child to come back", 20)
        system.ip(guest.of[101], "address flush dev eth0")
        client = ["udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true", "-t", "5", "-T", "1"]
        lease = subprocess.run(
            ["ip", "netns", "exec", guest.of[101], *client], capture_output=True, text=True, check=False
        )
        assert ip(child) in lease.stdout + lease.stderr, lease
        system.ip(guest.of[101], f"address add {ip(child)}/24 dev eth0")
        policy, rule = cloud.policy(max_kbps=3000, direction="egress")
        neutron.put(f"/ports/{child['id']}", json={"port": {"qos_policy_id": policy}})
        meters = partial(host.switch.ofctl, "dump-meters", "br-int")
        wait_until(lambda: "rate=3000 burst_size=2400" in meters(), "the limit to stand", 20)
        neutron.put(rule, json={"bandwidth_limit_rule": {"max_kbps": 5000, "max_burst_kbps": 700}})
        wait_until(lambda: "rate=5000 burst_size=700" in meters(), "the limit to change", 20)
        assert ping(vms[1], ip(child))
        assert answers(watching)[0] == 0

        copy = Guest(lab.host("host2"), parent, child, 101)
        stack.callback(copy.remove)
        assert ping(vms[1], ip(three)), "now the VTEPs know each other: Open vSwitch drops the packet for which it asks"
        watching = watch(vms[1].netns, ip(child), 0.002)
        paused = move(lab, neutron, parent["id"], copy)
        wait_until(
            lambda: cloud.get(child["id"])["binding:host_id"] == "host2" and status() == "ACTIVE", "the move", 20
        )
        guest.unplug()
        neutron.delete(f"/ports/{parent['id']}/bindings/host1")
        assert ping(vms[1], ip(child))
        assert answers(watching)[1] <= paused + BEYOND_PAUSE
        assert echoes(copy.of[101]) > 0


def move(lab: Lab, neutron: httpx.Client, parent: str, copy: Guest) -> float:
    """A live migration to host2 as Nova does it (see ``dragonflow.lab.migration``), but that both guests are awake all the time.

    Returns the seconds for which Nova's guest would have been paused: what an ordinary port may be without an answer, too.
    """
    path = f"/ports/{parent}/bindings"
    told = len(plugged_events(lab.region(), parent))
    neutron.post(path, json={"binding": {"host": "host2", "vnic_type": "normal"}})
    copy.plug()
    wait_until(lambda: len(plugged_events(lab.region(), parent)) > told, "the destination to be wired", 20)
    began = time.monotonic()
    neutron.put(f"{path}/host2/activate")
    return time.monotonic() - began


def echoes(netns: str) -> int:
    """Echo requests that the namespace has got."""
    counters = system.run(["cat", "/proc/net/snmp"], netns=netns).splitlines()
    heads, values = (line.split() for line in counters if line.startswith("Icmp:"))
    return int(values[heads.index("InEchos")])
