"""One lab for all of these tests; `tests/conftest.py` keeps them in one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from dragonflow.lab import Lab, Vm
from dragonflow.lab.bay import Bay
from dragonflow.lab.vm import remove

HOSTS = ("host1", "host2", "host3")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A region with three hosts. A test that breaks a part mends it.

    With DRAGONFLOW_TEST_LAB=NAME it is a lab that is up already, and stays up: quicker when one test is tried again and again.
    """
    if os.geteuid() != 0 or shutil.which("ovs-vswitchd") is None or shutil.which("mariadbd") is None:
        pytest.skip("needs root, Open vSwitch and MariaDB: make setup")
    if standing := os.environ.get("DRAGONFLOW_TEST_LAB"):
        yield Lab.open(standing)
        return
    made = Lab.up(f"t{os.getpid()}", hosts=len(HOSTS), progress=print)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def regions(lab: Lab) -> Iterator[Lab]:
    """Three regions with two hosts each, and an orchestrator, beside the lab of one region."""
    made = Lab.up(f"{lab.name[:5]}r{os.getpid() % 1000}", hosts=2, regions=3, progress=print)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def neutron(lab: Lab) -> Iterator[httpx.Client]:
    """Neutron as its administrator."""
    with lab.region().neutron.client() as client:
        yield client


class Cloud:
    """Makes networks and ports through Neutron's API, and takes them away after the test."""

    def __init__(self, lab: Lab, neutron: httpx.Client) -> None:
        self._lab, self._neutron = lab, neutron
        self._made: list[str] = []

    def network(self, *cidrs: str, gateways: bool = False, **body: Any) -> dict[str, Any]:
        """A network with a subnet for each CIDR; with ``gateways`` each names its first address as one."""
        network: dict[str, Any] = self._make("network", {"name": "test"} | body)
        for cidr in cidrs:
            gateway = {} if gateways else {"gateway_ip": None}
            version = 6 if ":" in cidr else 4
            self._make("subnet", {"network_id": network["id"], "cidr": cidr, "ip_version": version} | gateway)
        return network

    def router(self, *networks: dict[str, Any], **body: Any) -> dict[str, Any]:
        """A router with an interface in each subnet of the networks."""
        router: dict[str, Any] = self._make("router", body)
        for network in networks:
            for subnet in self._neutron.get(f"/networks/{network['id']}").json()["network"]["subnets"]:
                self._neutron.put(f"/routers/{router['id']}/add_router_interface", json={"subnet_id": subnet})
        return router

    def interfaces(self, router: str) -> list[dict[str, Any]]:
        """The ports by which a router stands in networks."""
        return self._ports_of(router, "network:router_interface")

    def gateway(self, router: dict[str, Any]) -> dict[str, Any]:
        """The port of a router's gateway."""
        return self._ports_of(router["id"], "network:router_gateway")[0]

    def _ports_of(self, router: str, owner: str) -> list[dict[str, Any]]:
        wanted = {"device_id": router, "device_owner": owner}
        found: list[dict[str, Any]] = self._neutron.get("/ports", params=wanted).json()["ports"]
        return found

    def floating_ip(self, network: dict[str, Any]) -> dict[str, Any]:
        """A floating IP of an external network, which serves nobody yet."""
        return self._make("floatingip", {"floating_network_id": network["id"]})

    def forward(self, floating: dict[str, Any], to: dict[str, Any], external: int, internal: int) -> None:
        """Forward a TCP port of a floating IP to one of a port's first address."""
        path = f"/floatingips/{floating['id']}/port_forwardings"
        body = {
            "protocol": "tcp",
            "external_port": external,
            "internal_port_id": to["id"],
            "internal_ip_address": to["fixed_ips"][0]["ip_address"],
            "internal_port": internal,
        }
        made = self._neutron.post(path, json={"port_forwarding": body}).json()["port_forwarding"]
        self._made.append(f"{path}/{made['id']}")

    def detach(self, router: str, *ports: dict[str, Any]) -> None:
        """Take away interfaces of a router."""
        for port in ports:
            self._neutron.put(f"/routers/{router}/remove_router_interface", json={"port_id": port["id"]})

    def port(self, network: dict[str, Any], host: str | None = None, **body: Any) -> dict[str, Any]:
        """A port of a VM, bound to a host if one is named."""
        compute = {"device_id": str(uuid.uuid4()), "device_owner": "compute:nova", "binding:host_id": host}
        return self._make("port", {"network_id": network["id"]} | (compute if host else {}) | body)

    def trunk(self, **body: Any) -> dict[str, Any]:
        """A trunk."""
        made: dict[str, Any] = self._make("trunk", body)
        return made

    def group(self, *rules: dict[str, Any], **body: Any) -> str:
        """A security group that lets out everything, as Neutron makes it, and lets in what the rules say; returns its id."""
        made: str = self._make("security-group", {"name": "test"} | body)["id"]
        for rule in rules:
            self.rule(made, **rule)
        return made

    def rule(self, group: str, **rule: Any) -> str:
        """One more rule of a group, for what comes in by IPv4 if it doesn't say otherwise; returns its id."""
        body = {"security_group_id": group, "direction": "ingress"} | rule
        made: str = self._neutron.post("/security-group-rules", json={"security_group_rule": body}).json()[
            "security_group_rule"
        ]["id"]
        return made

    def address_group(self, *addresses: str) -> str:
        """An address group; returns its id."""
        made: str = self._make("address-group", {"name": "test", "addresses": list(addresses)})["id"]
        return made

    def public(self) -> str:
        """A security group of guests that anybody may ping, and reach by TCP."""
        icmp, icmp6 = {"protocol": "icmp"}, {"protocol": "ipv6-icmp", "ethertype": "IPv6"}
        return self.group(icmp, icmp6, *({"protocol": "tcp", "ethertype": version} for version in ("IPv4", "IPv6")))

    def policy(self, **rule: Any) -> tuple[str, str]:
        """A QoS policy with a bandwidth limit: its id, and the rule's path."""
        policy = self._neutron.post("/qos/policies", json={"policy": {"name": "test"}}).json()["policy"]["id"]
        self._made.insert(0, f"/qos/policies/{policy}")  # it goes when nobody has it any more
        rules = f"/qos/policies/{policy}/bandwidth_limit_rules"
        made = self._neutron.post(rules, json={"bandwidth_limit_rule": rule}).json()["bandwidth_limit_rule"]
        return policy, f"{rules}/{made['id']}"

    def get(self, port_id: str) -> dict[str, Any]:
        """The port as Neutron has it now."""
        port: dict[str, Any] = self._neutron.get(f"/ports/{port_id}").json()["port"]
        return port

    def plug(self, port: dict[str, Any], **how: Any) -> Vm:
        """Plug a VM where Neutron bound its port."""
        return self._lab.plug(port["id"], port["binding:host_id"], **how)

    def active(self, *ports: dict[str, Any]) -> bool:
        """Whether all of these ports are ACTIVE."""
        return all(self.get(port["id"])["status"] == "ACTIVE" for port in ports)

    def _make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        name = kind.replace("-", "_")
        made: dict[str, Any] = self._neutron.post(f"/{kind}s", json={name: body}).json()[name]
        self._made.append(f"/{kind}s/{made['id']}")
        return made

    def clear(self) -> None:
        """Unplug and delete what was made; a test may have deleted some of it."""
        for vm in self._lab.vms:
            self._lab.unplug(vm)
        for path in reversed(self._made):
            kind, name = path.strip("/").rsplit("/", 1)
            try:
                if kind == "routers":
                    self._neutron.put(path, json={"router": {"routes": []}})
                    self.detach(name, *self.interfaces(name))
                self._neutron.delete(path)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 404:
                    raise


@pytest.fixture
def cloud(lab: Lab, neutron: httpx.Client) -> Iterator[Cloud]:
    made = Cloud(lab, neutron)
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture
def bay(lab: Lab) -> Iterator[Callable[[str, dict[str, Any]], Bay]]:
    """``bay(host, network)``: a place for a VM, to be plugged while packets are counted (see ``dragonflow.lab.bay``)."""
    made: list[Bay] = []

    def make(host: str, network: dict[str, Any]) -> Bay:
        made.append(Bay(lab.host(host), f"bay{len(made)}", network["mtu"]))
        return made[-1]

    yield make
    for each in made:
        each.unplug()
        remove(each.netns)


@pytest.fixture
def ping(lab: Lab) -> Callable[..., bool]:
    """``ping(vm, address)``: whether at least one of three echo requests is answered."""

    def run(vm: Vm, address: str, *options: str) -> bool:
        done = lab.exec(vm.port_id, "ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", *options, address)
        return done.returncode == 0

    return run


@pytest.fixture
def audited(lab: Lab, cloud: Cloud) -> Iterator[None]:
    """After the test every switch holds exactly what fresh processes compile from the DF DB and OVSDB, history or not."""
    yield
    region = lab.region()
    audits = [
        subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "dragonflow.testing.audit",
                    "--store",
                    region.store.url,
                    "--chassis",
                    host.name,
                ),
                *("--ovsdb", f"unix:{host.switch.db_sock}", "--openflow", f"unix:{host.switch.openflow('br-int')}"),
                *("--within", "10"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in region.hosts.values()
    ]
    differences = [audit.communicate(timeout=60)[0] for audit in audits]
    assert [audit.returncode for audit in audits] == [0] * len(audits), "\n".join(differences)
