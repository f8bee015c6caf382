"""Floating IPs over three hosts, from Neutron's API to a machine outside, and their status back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dragonflow.lab import Lab
from dragonflow.lab.system import wait_until

from .conftest import Cloud
from .test_faults import in_sync
from .test_faults import status as said
from .test_provider_networks import peer  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("audited")

EXTERNAL = {
    "router:external": True,
    "provider:network_type": "vlan",
    "provider:physical_network": "physnet1",
    "provider:segmentation_id": 150,
}


def test_floating_ips_are_reached_move_and_say_whether_they_work(
    lab: Lab,
    cloud: Cloud,
    neutron: httpx.Client,
    ping: Callable[..., bool],
    peer: Callable[..., Callable[[str], bool]],  # noqa: F811
) -> None:
    inner, outer = (
        cloud.network("10.1.0.0/24", gateways=True),
        cloud.network("203.0.113.0/24", gateways=True, **EXTERNAL),
    )
    outside = peer("gateway", "203.0.113.1/24", vlan=150)
    one, two, three = cloud.port(inner, "host1"), cloud.port(inner, "host2"), cloud.port(inner, "host3")
    vms = [cloud.plug(port) for port in (one, two, three)]
    cloud.router(inner, external_gateway_info={"network_id": outer["id"]})
    floating = [cloud.floating_ip(outer), cloud.floating_ip(outer)]
    addresses = [each["floating_ip_address"] for each in floating]

    def put(number: int, port: dict[str, Any] | None) -> None:
        body = {"floatingip": {"port_id": port["id"] if port else None}}
        neutron.put(f"/floatingips/{floating[number]['id']}", json=body)

    def status(number: int) -> str:
        found: str = neutron.get(f"/floatingips/{floating[number]['id']}").json()["floatingip"]["status"]
        return found

    wait_until(lambda: cloud.active(one, two, three), "all ACTIVE", 20)
    assert (status(0), status(1)) == ("DOWN", "DOWN")
    put(0, one)
    put(1, two)
    wait_until(lambda: status(0) == status(1) == "ACTIVE", "floating IPs ACTIVE", 10)
    for address in addresses:
        assert outside(address)
    assert ping(vms[0], "203.0.113.1")
    assert ping(vms[0], addresses[1])
    assert ping(vms[1], addresses[0], "-M", "do", "-s", str(inner["mtu"] - 28))
    assert not ping(vms[2], "203.0.113.1"), "it has no address there"
    process = lab.process("controller-host1")
    process.kill()
    process.start()
    wait_until(lambda: in_sync(lab, "host1"), "in sync", 20)
    assert said(lab, "host1")["mods_since_start"] == 0, "what it had learnt is still in the switch"
    put(0, three)
    wait_until(lambda: ping(vms[2], "203.0.113.1") and outside(addresses[0]), "the floating IP on host3", 10)
    wait_until(lambda: status(0) == "ACTIVE", "ACTIVE again", 10)
    assert ping(vms[1], addresses[0])
    put(0, None)
    wait_until(lambda: status(0) == "DOWN", "DOWN", 10)
    assert not outside(addresses[0])
    assert outside(addresses[1])
