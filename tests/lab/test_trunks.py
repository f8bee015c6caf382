"""A trunk, from Neutron's API to the packets of its child on another network."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from dragonflow.lab import Lab, system
from dragonflow.lab.system import wait_until
from dragonflow.lab.tags import TaggingGuest
from dragonflow.lab.vm import attach, interface_of, remove

from .conftest import Cloud

pytestmark = pytest.mark.usefixtures("audited")


def ip(port: dict[str, Any]) -> str:
    return str(port["fixed_ips"][0]["ip_address"])


def test_a_child_comes_and_goes_and_is_limited_while_its_parent_talks(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    near, far = cloud.network("10.1.0.0/24"), cloud.network("10.2.0.0/24")
    parent, child = cloud.port(near, "host1"), cloud.port(far)
    one, two = cloud.port(near, "host2"), cloud.port(far, "host2")
    subports = [{"port_id": child["id"], "segmentation_type": "vlan", "segmentation_id": 101}]
    trunk = cloud.trunk(port_id=parent["id"], sub_ports=subports)
    vms = [cloud.plug(port) for port in (one, two)]
    host, tap = lab.host("host1"), interface_of(parent["id"])
    ends = {None: (f"{host.netns}-p", parent), 101: (f"{host.netns}-c", child)}

    def status() -> str:
        return str(neutron.get(f"/trunks/{trunk['id']}").json()["trunk"]["status"])

    for netns, _ in ends.values():
        system.netns_add(netns)
    guest = TaggingGuest(host.switch, tap, {vlan: (netns, it["mac_address"]) for vlan, (netns, it) in ends.items()})
    try:
        for netns, port in ends.values():
            system.ip(netns, f"address add {ip(port)}/24 dev eth0")
        assert status() == "DOWN"
        attach(host, tap, parent)
        wait_until(lambda: status() == "ACTIVE" and cloud.active(parent, child), "trunk and ports ACTIVE", 20)
        shown = cloud.get(child["id"])
        assert (shown["binding:host_id"], shown["device_owner"]) == ("host1", "trunk:subport")
        assert ping(vms[0], ip(parent))
        assert ping(vms[1], ip(child))
        assert not ping(vms[0], ip(child)), "they are on two networks"
        watch = subprocess.Popen(
            ["ip", "netns", "exec", ends[None][0], "ping", "-n", "-q", "-i", "0.02", ip(one)],
            stdout=subprocess.PIPE,
            text=True,
        )
        neutron.put(f"/trunks/{trunk['id']}/remove_subports", json={"sub_ports": [{"port_id": child["id"]}]})
        wait_until(lambda: status() == "ACTIVE" and cloud.get(child["id"])["status"] == "DOWN", "the child to go", 20)
        assert cloud.get(child["id"])["binding:host_id"] == ""
        assert not ping(vms[1], ip(child))
        neutron.put(f"/trunks/{trunk['id']}/add_subports", json={"sub_ports": subports})
        wait_until(lambda: status() == "ACTIVE" and cloud.active(child), "the child to come back", 20)
        system.ip(ends[101][0], "address flush dev eth0")
        client = ["udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", "/bin/true", "-t", "5", "-T", "1"]
        lease = subprocess.run(
            ["ip", "netns", "exec", ends[101][0], *client], capture_output=True, text=True, check=False
        )
        assert ip(child) in lease.stdout + lease.stderr, lease
        system.ip(ends[101][0], f"address add {ip(child)}/24 dev eth0")
        policy, rule = cloud.policy(max_kbps=3000, direction="egress")
        neutron.put(f"/ports/{child['id']}", json={"port": {"qos_policy_id": policy}})
        meters = partial(host.switch.ofctl, "dump-meters", "br-int")
        wait_until(lambda: "rate=3000 burst_size=2400" in meters(), "the limit to stand", 20)
        neutron.put(rule, json={"bandwidth_limit_rule": {"max_kbps": 5000, "max_burst_kbps": 700}})
        wait_until(lambda: "rate=5000 burst_size=700" in meters(), "the limit to change", 20)
        assert ping(vms[1], ip(child))
        watch.send_signal(signal.SIGINT)
        said = watch.communicate()[0]
        sent, got = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
        assert int(sent) - int(got) <= 1, said  # the last may be on its way
    finally:
        host.switch.vsctl("--if-exists", "del-port", "br-int", tap)
        guest.remove()
        for netns, _ in ends.values():
            remove(netns)
