"""Guests that ask for their addresses, through a whole region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dragonflow.lab import Lab, Vm

from .conftest import Cloud

pytestmark = pytest.mark.usefixtures("audited")


def test_guests_get_from_their_own_chassis_what_neutron_gave_their_ports(
    lab: Lab, cloud: Cloud, neutron: httpx.Client, ping: Callable[..., bool]
) -> None:
    network = cloud.network("10.1.0.0/24", "10.2.0.0/24", mtu=1400)
    option = {"opt_name": "mtu", "opt_value": "1300", "ip_version": 4}
    ports = [cloud.port(network, "host1"), cloud.port(network, "host2", extra_dhcp_opts=[option])]
    vms = [cloud.plug(port, address="dhcp") for port in ports]
    for vm, port, mtu in zip(vms, ports, (1400, 1300), strict=True):
        shown = lab.exec(vm.port_id, "ip", "-4", "address", "show", "eth0").stdout
        assert f"inet {address(port)}/24" in shown
        assert f"mtu {mtu} " in shown
        routes = lab.exec(vm.port_id, "ip", "-4", "route").stdout
        assert {"10.1.0.0/24", "10.2.0.0/24"} <= set(routes.split())  # both on link
    assert ping(vms[0], address(ports[1]))

    body = {"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": None, "ip_version": 4}]}
    changed = neutron.put(f"/ports/{ports[1]['id']}", json={"port": body}).json()["port"]
    assert changed["extra_dhcp_opts"] == []
    lab.unplug(vms[1].port_id)
    again: Vm = cloud.plug(ports[1], address="dhcp")
    assert "mtu 1400 " in lab.exec(again.port_id, "ip", "link", "show", "eth0").stdout


def address(port: dict[str, Any]) -> str:
    found: str = port["fixed_ips"][0]["ip_address"]
    return found
