"""Provider networks over three hosts and a physical switch, from Neutron's API to machines that Neutron has never heard of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from dragonflow.lab import Lab, Vm, system
from dragonflow.lab.system import wait_until

from .conftest import Cloud
from .test_packets import ips

pytestmark = pytest.mark.usefixtures("audited")

VLAN = {"provider:network_type": "vlan", "provider:physical_network": "physnet1", "provider:segmentation_id": 123}
FLAT = {"provider:network_type": "flat", "provider:physical_network": "physnet1"}


@pytest.fixture
def peer(lab: Lab) -> Iterator[Callable[..., Callable[[str], bool]]]:
    """``peer(name, address, …, vlan=…)``: a machine on the physical network, as a function that pings from there."""
    made = []

    def make(name: str, *addresses: str, **how: Any) -> Callable[[str], bool]:
        netns = lab.peer(name, *addresses, **how)
        made.append(name)

        return partial(system.pings, netns)

    yield make
    for name in made:
        lab.unpeer(name)


def test_a_vlan_and_a_flat_network_lead_to_machines_outside_and_a_router_to_a_tunnelled_one(
    lab: Lab, cloud: Cloud, ping: Callable[..., bool], peer: Callable[..., Callable[[str], bool]]
) -> None:
    vlan = cloud.network("10.3.0.0/24", "fd03::/64", gateways=True, **VLAN)
    flat = cloud.network("10.3.0.0/24", "fd03::/64", **FLAT)
    assert (vlan["mtu"], flat["mtu"]) == (1500, 1500)
    tunnelled = cloud.network("10.4.0.0/24", "fd04::/64", gateways=True)
    cloud.router(vlan, tunnelled)
    public = [cloud.public()]
    one, two = (cloud.port(vlan, host, security_groups=public) for host in ("host1", "host2"))
    other = cloud.port(flat, "host1", security_groups=public)
    far = cloud.port(tunnelled, "host2", security_groups=public)
    vms: list[Vm] = [cloud.plug(port) for port in (one, two, other, far)]
    outside = peer("tagged", "10.3.0.250/24", "fd03::fa/64", vlan=123)
    system.ip(f"{lab.name}-peer-tagged", "route add default via 10.3.0.1", "route add default via fd03::")
    plain = peer("plain", "10.3.0.251/24")
    wait_until(lambda: cloud.active(one, two, other, far), "all ACTIVE", 20)
    for target in (*ips(two), *ips(far), "10.3.0.250", "fd03::fa"):
        wait_until(lambda target=target: ping(vms[0], target), f"{target} to be reached", 10)  # type: ignore[misc]
    for target in (*ips(one), ips(two)[0]):
        assert outside(target)
    assert ping(vms[3], ips(one)[0]), "back through the router, over the physical network to the one host"
    for there, here in zip(ips(far), ("10.3.0.250", "fd03::fa"), strict=True):
        wait_until(lambda there=there: outside(there), f"a machine outside to find the router to {there}", 10)  # type: ignore[misc]
        assert ping(vms[3], here), "and to be found"
    assert plain(ips(other)[0])
    assert not ping(vms[0], "10.3.0.251")
    assert ping(vms[2], "10.3.0.251")
    assert ping(vms[1], "10.3.0.250", "-M", "do", "-s", "1472"), "a full frame with a tag"
