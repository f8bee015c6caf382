"""Several regions: each with a Neutron, a DF DB and a bus of its own, joined by nothing but the network between their chassis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from dragonflow.lab import Lab, LabError
from dragonflow.lab.system import wait_until


@pytest.fixture(scope="module")
def regions(lab: Lab) -> Iterator[Lab]:
    """Two regions of one host, beside the lab of the other tests."""
    made = Lab.up(f"{lab.name[:5]}r{os.getpid() % 1000}", hosts=1, regions=2, progress=print)
    try:
        yield made
    finally:
        made.down()


def test_regions_share_nothing_but_the_network(regions: Lab) -> None:
    one, two = regions.info()["regions"]
    assert one["neutron_url"] != two["neutron_url"]
    assert one["dfdb_url"] != two["dfdb_url"]
    processes = [process["name"] for region in (one, two) for process in region["processes"]]
    assert len(set(processes)) == len(processes)
    there = two["hosts"][0]["vtep"]
    pinged = regions.host_exec("host1", "ping", "-c", "1", "-W", "2", there, region=one["name"])
    assert pinged.returncode == 0, pinged.stdout


def test_a_port_of_one_region_is_nothing_to_the_other(regions: Lab) -> None:
    names = list(regions.regions)
    ports = {name: _port(regions, name) for name in names}
    with pytest.raises(LabError, match="could not be found"):
        regions.plug(ports[names[0]]["id"], "host1", region=names[1])
    for name, port in ports.items():
        assert regions.plug(port["id"], "host1", region=name).region == name
    for name, port in ports.items():
        wait_until(lambda name=name, port=port: _status(regions, name, port) == "ACTIVE", f"ACTIVE in {name}", 20)
    addresses = {name: regions.vm(port["id"]).ips[0] for name, port in ports.items()}
    assert addresses[names[0]] == addresses[names[1]]  # the same, in different worlds


def _port(lab: Lab, region: str) -> dict[str, Any]:
    with lab.region(region).neutron.client() as neutron:
        network = neutron.post("/networks", json={"network": {"name": "n"}}).json()["network"]["id"]
        subnet = {"network_id": network, "cidr": "10.1.0.0/24", "ip_version": 4}
        subnet_id = neutron.post("/subnets", json={"subnet": subnet}).json()["subnet"]["id"]
        fixed = [{"subnet_id": subnet_id, "ip_address": "10.1.0.5"}]
        body = {"network_id": network, "binding:host_id": "host1", "fixed_ips": fixed}
        port: dict[str, Any] = neutron.post("/ports", json={"port": body}).json()["port"]
        return port


def _status(lab: Lab, region: str, port: dict[str, Any]) -> str:
    with lab.region(region).neutron.client() as neutron:
        return str(neutron.get(f"/ports/{port['id']}").json()["port"]["status"])
