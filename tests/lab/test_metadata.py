"""Guests that ask for their metadata, through a whole region."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dragonflow.lab import Lab, Vm
from dragonflow.lab.system import wait_until
from dragonflow.observe import control

from .conftest import Cloud

pytestmark = pytest.mark.usefixtures("audited")

IPV4, IPV6 = "http://169.254.169.254", "http://[fe80::a9fe:a9fe%25eth0]"
ADDRESS = "10.9.0.7"
FORGED = {
    "X-Instance-ID": "of another",
    "X-Tenant-ID": "b" * 32,
    "X-Forwarded-For": "10.9.0.8",
    "X-Instance-ID-Signature": "0",
}


def test_each_guest_gets_its_own_metadata_wherever_it_is(lab: Lab, cloud: Cloud) -> None:
    """Two tenants with the same addresses on one host; one network is isolated, the other has a router, as has a third host's."""
    ports = []
    for number, (project, host) in enumerate((("a" * 32, "host1"), ("b" * 32, "host1"), ("c" * 32, "host3"))):
        network = cloud.network("10.9.0.0/24", gateways=number > 0, project_id=project)
        if number:
            cloud.router(network, project_id=project)
        ports.append(cloud.port(network, host, project_id=project, fixed_ips=[{"ip_address": ADDRESS}]))
    vms = [cloud.plug(port, address="dhcp") for port in ports]
    for vm, port in zip(vms, ports, strict=True):
        for url in (IPV4, IPV6):
            said = ask(lab, vm, f"{url}/openstack/latest/meta_data.json?x=%20")
            assert said["path"] == "/openstack/latest/meta_data.json?x=%20"
            assert_is(said, port)
        assert_is(ask(lab, vm, IPV4, *(f"-H{name}: {value}" for name, value in FORGED.items())), port)
    assert ask(lab, vms[0], f"{IPV4}/password", "--data", "x" * 5000)["body"] == "x" * 5000

    routes = lab.exec(vms[2].port_id, "ip", "route", "delete", "169.254.169.254")
    assert routes.returncode == 0, routes.stderr
    assert_is(ask(lab, vms[2], IPV4), ports[2])  # by its default route, to the router's MAC

    lab.process("store").stop()
    try:
        assert_is(ask(lab, vms[2], IPV4), ports[2])
    finally:
        lab.process("store").start()
    assert proxy_of(lab, "host1") == "the proxy listens on df-metadata; 0 connections wait for it"
    lab.process("metadata-host1").kill()
    wait_until(lambda: "nobody listens" in proxy_of(lab, "host1"), "its sockets to be closed", 5)
    lab.process("metadata-host1").start()
    lab.process("ovs-host1").kill()
    lab.process("ovs-host1").start()
    for vm, port in zip(vms, ports, strict=True):
        assert_is(ask(lab, vm, IPV4), port)


def proxy_of(lab: Lab, host: str) -> str:
    """What the host's controller says of its metadata proxy."""
    said: str = control.ask(str(lab.host(host).control_socket), "status")["metadata"]
    return said


def ask(lab: Lab, vm: Vm, url: str, *options: str) -> dict[str, Any]:
    """What the service says, after a while if need be: as cloud-init does, which asks for minutes."""
    patient = ("--fail-with-body", "--retry", "10", "--retry-delay", "1", "--retry-all-errors", "--max-time", "3")
    done = lab.exec(vm.port_id, "curl", "--silent", "--show-error", "--globoff", *patient, *options, url)
    assert done.returncode == 0, done.stderr + done.stdout
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def assert_is(said: dict[str, Any], port: dict[str, Any]) -> None:
    assert (said["instance"], said["project"], said["address"]) == (port["device_id"], port["project_id"], ADDRESS)
