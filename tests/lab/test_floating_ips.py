"""Floating IPs over three hosts, from Neutron's API to a machine outside, and their status back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.lab import Lab, system
from dragonflow.lab.system import wait_until

from .conftest import HOSTS, Cloud
from .test_faults import Traffic, in_sync, traffic  # noqa: F401 - a fixture
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
    public = [cloud.public()]
    one, two, three = (cloud.port(inner, host, security_groups=public) for host in HOSTS)
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
    assert ping(vms[2], "203.0.113.1"), "under its router's address"
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

    reserved = cloud.port(
        inner
    )  # an address that two guests share: the floating IP is with the one who announced it last
    vip = reserved["fixed_ips"][0]["ip_address"]
    for port in (one, three):
        pairs = {"port": {"allowed_address_pairs": [{"ip_address": vip}]}}
        neutron.put(f"/ports/{port['id']}", json=pairs)
    put(0, reserved)
    for port in (one, three, one):
        lab.exec(port["id"], "ip", "address", "replace", f"{vip}/24", "dev", "eth0")
        done = lab.exec(port["id"], "python3", "-c", ANNOUNCE, vip, port["mac_address"])
        assert done.returncode == 0, done.stderr
        wait_until(lambda port=port: served_on(lab, floating[0]) == port["binding:host_id"], "the guest's host", 10)
        wait_until(lambda: outside(addresses[0]) and status(0) == "ACTIVE", "the floating IP of a shared address", 10)


def test_guests_share_their_routers_address_which_another_host_takes_over(  # noqa: PLR0917 - fixtures
    lab: Lab,
    cloud: Cloud,
    neutron: httpx.Client,
    ping: Callable[..., bool],
    peer: Callable[..., Callable[[str], bool]],  # noqa: F811
    traffic: Callable[..., contextlib.AbstractContextManager[Traffic]],  # noqa: F811
) -> None:
    inner, outer = (
        cloud.network("10.1.0.0/24", gateways=True),
        cloud.network("203.0.113.0/24", gateways=True, **EXTERNAL),
    )
    outside = peer("gateway", "203.0.113.1/24", vlan=150)
    public = [cloud.public()]
    ports = {host: cloud.port(inner, host, security_groups=public) for host in HOSTS}
    vms = {host: cloud.plug(port) for host, port in ports.items()}
    router = cloud.router(inner, external_gateway_info={"network_id": outer["id"]})
    floating = cloud.floating_ip(outer)
    inside = ports["host3"]
    cloud.forward(floating, inside, 8080, 80)

    def status() -> str:
        found: str = neutron.get(f"/floatingips/{floating['id']}").json()["floatingip"]["status"]
        return found

    wait_until(lambda: cloud.active(*ports.values(), cloud.gateway(router)), "all ACTIVE", 20)
    wait_until(lambda: status() == "ACTIVE", "the floating IP ACTIVE", 10)
    for vm in vms.values():
        wait_until(lambda vm=vm: ping(vm, "203.0.113.1"), "the way outside", 5)
    assert outside(cloud.gateway(router)["fixed_ips"][0]["ip_address"])
    web = subprocess.Popen(
        lab.vm_command(inside["id"], ["python3", "-m", "http.server", "80"]), stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://{floating['floating_ip_address']}:8080/"
        fetch = ["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", url]
        wait_until(lambda: fetched(fetch, f"{lab.name}-peer-gateway"), "the forwarded port", 10)
        assert "200" in lab.exec(ports["host1"]["id"], *fetch).stdout
        first = serving(lab, router)
        guest = next(vm for host, vm in vms.items() if host != first)
        with traffic(guest, "203.0.113.1", 0.01) as seen:
            lab.process(f"ovs-{first}").kill()
            wait_until(lambda: serving(lab, router) not in (None, first), "another host to serve", 10)
            time.sleep(0.5)
        print(f"{seen.lost} of {seen.sent} packets lost, one every 10 ms")
        assert 0 < seen.lost <= 200, (seen.lost, seen.sent)
        if first != "host3":
            wait_until(lambda: fetched(fetch, f"{lab.name}-peer-gateway"), "the forwarded port again", 10)
        lab.process(f"ovs-{first}").start()
        wait_until(
            lambda: serving(lab, router) == first and in_sync(lab, str(first)), "the first host to serve again", 20
        )
        wait_until(lambda: all(ping(vm, "203.0.113.1") for vm in vms.values()), "all as before", 10)
    finally:
        web.terminate()
        web.wait()


def fetched(command: list[str], netns: str) -> bool:
    """Whether the page could be read from there."""
    try:
        return system.run(command, netns=netns) == "200"
    except system.LabError:
        return False


ANNOUNCE = """
import socket, sys, time
address, mac = socket.inet_aton(sys.argv[1]), bytes.fromhex(sys.argv[2].replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
for _ in range(5):
    wire.send(b"\\xff" * 6 + mac + bytes.fromhex("0806 0001 0800 06 04 0001") + mac + address + bytes(6) + address)
    time.sleep(0.2)
"""
"""Say by gratuitous ARP that a MAC has an address, some times over a second, as keepalived does."""


def served_on(lab: Lab, floating: dict[str, Any]) -> str | None:
    """The host that serves the floating IP, as operators see it."""
    done = CliRunner().invoke(app, ["show", "floating-ips", "--store-url", lab.region().store.url, "--json"])
    (found,) = (it["served_on"] for it in json.loads(done.stdout) if it["id"] == floating["id"])
    return str(found) if found else None


def serving(lab: Lab, router: dict[str, Any]) -> str | None:
    """The host that serves the router's gateway, as operators see it."""
    done = CliRunner().invoke(app, ["show", "routers", "--store-url", lab.region().store.url, "--json"])
    (found,) = (it["gateway_chassis"] for it in json.loads(done.stdout) if it["id"] == router["id"])
    return str(found) if found else None
