"""Routers over three chassis, from Neutron's API to the ping."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from dragonflow.lab import Lab
from dragonflow.lab.system import wait_until

from .conftest import Cloud
from .test_packets import ips

pytestmark = pytest.mark.usefixtures("audited")

NEAR, FAR = ("10.1.0.0/24", "fd01::/64"), ("10.2.0.0/24", "fd02::/64")


def test_networks_meet_at_a_router_that_is_nowhere(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    near, far = cloud.network(*NEAR, gateways=True), cloud.network(*FAR, gateways=True)
    one, two, three = cloud.port(near, "host1"), cloud.port(far, "host2"), cloud.port(far, "host1")
    vms = [cloud.plug(port) for port in (one, two, three)]
    wait_until(lambda: cloud.active(one, two, three), "all ACTIVE", 20)
    for target in (*ips(two), *ips(three)):
        assert not ping(vms[0], target), "there is no router yet"
    router = cloud.router(near, far)
    interfaces = cloud.interfaces(router["id"])
    assert len(interfaces) == 4
    wait_until(lambda: cloud.active(*interfaces), "interfaces ACTIVE", 20)
    gateways = [fixed["ip_address"] for port in interfaces for fixed in port["fixed_ips"]]
    assert sorted(gateways) == ["10.1.0.1", "10.2.0.1", "fd01::", "fd02::"]  # as Neutron gives them
    for target in (*ips(two), *ips(three), *gateways):
        wait_until(lambda target=target: ping(vms[0], target), f"{target} to be reached", 20)  # type: ignore[misc]
    for target in ips(one):
        assert ping(vms[1], target)
        assert ping(vms[2], target)
    for target, hop in zip(ips(two), ("10.1.0.1", "fd01::"), strict=True):
        shown = lab.exec(vms[0].port_id, "ping", "-n", "-c", "1", "-W", "2", "-t", "1", target).stdout
        assert f"From {hop} " in shown, shown
    assert ping(vms[0], ips(two)[0], "-M", "do", "-s", str(far["mtu"] - 28)), "a full frame over both networks"
    neutron.put(f"/routers/{router['id']}", json={"router": {"admin_state_up": False}})
    wait_until(lambda: not ping(vms[0], ips(two)[0]), "the router to close", 20)
    neutron.put(f"/routers/{router['id']}", json={"router": {"admin_state_up": True}})
    wait_until(lambda: ping(vms[0], ips(two)[0]), "the router to open", 20)
    cloud.detach(router["id"], *(port for port in interfaces if port["network_id"] == far["id"]))
    wait_until(lambda: not ping(vms[0], ips(two)[0]), "the interface to go", 20)


def test_a_vm_behind_a_router_moves_and_is_found(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    near, far = cloud.network(*NEAR, gateways=True), cloud.network(*FAR, gateways=True)
    cloud.router(near, far)
    still, moving = cloud.port(near, "host1"), cloud.port(far, "host2")
    watcher = cloud.plug(still)
    cloud.plug(moving)
    wait_until(lambda: cloud.active(still, moving), "both ACTIVE", 20)
    wait_until(lambda: ping(watcher, ips(moving)[0]), "to be reached", 20)
    lab.unplug(moving["id"])
    neutron.put(f"/ports/{moving['id']}", json={"port": {"binding:host_id": "host3"}})
    lab.plug(moving["id"], "host3")
    wait_until(lambda: cloud.active(moving), "ACTIVE on the new host", 20)
    wait_until(lambda: ping(watcher, ips(moving)[0]) and ping(watcher, ips(moving)[1]), "answers from the new host", 10)
