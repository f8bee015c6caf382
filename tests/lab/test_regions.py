"""Several regions: each with a Neutron, a DF DB and a bus of its own, joined by nothing but the network between their chassis."""

from __future__ import annotations

from typing import Any

import pytest

from dragonflow.lab import Lab, LabError
from dragonflow.lab.system import wait_until
from dragonflow.regions.cloud import Cloud


def test_regions_share_nothing_but_the_network(regions: Lab) -> None:
    one, two, _ = regions.info()["regions"]
    assert one["neutron_url"] != two["neutron_url"]
    assert one["dfdb_url"] != two["dfdb_url"]
    processes = [process["name"] for region in (one, two) for process in region["processes"]]
    assert len(set(processes)) == len(processes)
    there = two["hosts"][0]["vtep"]
    pinged = regions.host_exec("host1", "ping", "-c", "1", "-W", "2", there, region=one["name"])
    assert pinged.returncode == 0, pinged.stdout
    regions.sever(one["name"], two["name"])
    assert regions.info()["cuts"] == [{"regions": (one["name"], two["name"]), "what": "all"}]
    assert regions.host_exec("host1", "ping", "-c", "1", "-W", "1", there, region=one["name"]).returncode != 0
    regions.rejoin(two["name"], one["name"])
    assert regions.host_exec("host1", "ping", "-c", "1", "-W", "2", there, region=one["name"]).returncode == 0
    with pytest.raises(LabError, match="can't be cut off from itself"):
        regions.sever(one["name"], one["name"])


def test_each_region_is_a_cloud_of_its_own(regions: Lab) -> None:
    for name, region in regions.regions.items():
        agents = Cloud(name, files=[regions.between.clouds]).agents()
        assert {agent.tunnel_ip for agent in agents} == {host.vtep for host in region.hosts.values()}
    (orchestrator,) = regions.info()["processes"]
    assert (orchestrator["name"], orchestrator["role"]) == ("orchestrator", "leader")


def test_a_port_of_one_region_is_nothing_to_the_other(regions: Lab) -> None:
    names = list(regions.regions)[:2]
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
