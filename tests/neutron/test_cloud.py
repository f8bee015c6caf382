"""A region's API as the orchestrator uses it, against a real Neutron and its policy."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from region import region

from dragonflow.lab.neutron import Neutron
from dragonflow.regions import cloud as module
from dragonflow.regions.cloud import (
    AddressPair,
    Cloud,
    Conflict,
    Misconfigured,
    Network,
    NotFound,
    Pool,
    Rejected,
    Unauthorized,
    Unreachable,
)

PROJECT = "00000000000000000000000000000001"


def clouds_yaml(directory: Path, **endpoints: str) -> Path:
    """A file that names these clouds; JSON is YAML."""
    file = directory / "clouds.yaml"
    clouds = {name: {"auth_type": "none", "auth": {"endpoint": url}} for name, url in endpoints.items()}
    file.write_text(json.dumps({"clouds": clouds}))
    return file


@pytest.fixture(scope="module")
def neutron() -> Iterator[Neutron]:
    with region() as made:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Neutron("neutron", made.home, made.home / "neutron", port)
        server.configure(
            sql_url=made.mariadb.url,
            nova_port=made.nova_port,
            driver={"store_url": made.store_url, "pubsub_url": f"zmq+ipc://{made.home}/pubsub"},
        )
        (made.home / "pubsub").mkdir()
        try:
            server.start()
            yield server
        finally:
            server.daemon.kill()


@pytest.fixture
def cloud(neutron: Neutron, tmp_path: Path) -> Cloud:
    return Cloud("here", files=[clouds_yaml(tmp_path, here=neutron.url)])


@pytest.fixture
def network(neutron: Neutron, cloud: Cloud) -> Network:
    with neutron.client(project=PROJECT) as client:
        made = client.post("/networks", json={"network": {"name": "n"}}).json()["network"]
        subnet = {"network_id": made["id"], "cidr": "192.0.2.0/24", "ip_version": 4}
        pools = [{"start": "192.0.2.10", "end": "192.0.2.99"}]
        client.post("/subnets", json={"subnet": subnet | {"allocation_pools": pools}})
    (found,) = cloud.networks(id=made["id"])
    return found


def test_what_there_is_is_read_as_it_stands(cloud, network):
    assert (network.name, network.project_id, network.network_type) == ("n", PROJECT, "geneve")
    assert network.segmentation_id is not None
    assert network.mtu > 1280
    (subnet,) = cloud.subnets(network_id=[network.id])
    assert (subnet.cidr, subnet.gateway_ip, subnet.allocation_pools) == (
        "192.0.2.0/24",
        "192.0.2.1",
        (Pool("192.0.2.10", "192.0.2.99"),),
    )
    assert cloud.networks(name="n", id=[network.id]) == [network]
    assert cloud.networks(id=[]) == []
    assert cloud.agents() == []
    assert "port-security" in cloud.extensions()


def test_a_port_of_another_region_is_made_changed_and_deleted(cloud, network):
    (subnet,) = cloud.subnets(network_id=network.id)
    profile = {"port_key": "remote_port", "host_ip": "198.51.100.7"}
    made = cloud.create_port(
        {
            "network_id": network.id,
            "project_id": PROJECT,
            "device_owner": "dragonflow:remote_port",
            "device_id": "elsewhere/x",
            "mac_address": "02:00:00:00:00:07",
            "fixed_ips": [{"subnet_id": subnet.id, "ip_address": "192.0.2.200"}],
            "allowed_address_pairs": [{"ip_address": "192.0.2.201"}],
            "binding:profile": profile,
        }
    )
    assert made.profile == profile
    assert made.allowed_address_pairs == (AddressPair("192.0.2.201", "02:00:00:00:00:07"),)
    assert made.created_at.endswith("Z")
    (group,) = cloud.security_groups(project_id=[PROJECT])
    assert made.security_groups == (group.id,)
    assert group.name == "default"
    changed = cloud.update_port(made.id, {"name": "vm", "binding:profile": profile | {"host_ip": "198.51.100.8"}})
    assert (changed.name, changed.profile["host_ip"]) == ("vm", "198.51.100.8")
    assert cloud.ports(device_owner="dragonflow:remote_port") == [changed]

    with pytest.raises(Conflict) as taken:
        cloud.create_port({"network_id": network.id, "fixed_ips": [{"ip_address": "192.0.2.200"}]})
    assert (taken.value.kind, taken.value.region) == ("IpAddressAlreadyAllocated", "here")
    with pytest.raises(Conflict, match="mac"):
        cloud.create_port({"network_id": network.id, "mac_address": "02:00:00:00:00:07"})
    cloud.delete_port(made.id)
    cloud.delete_port(made.id)
    assert not cloud.ports(device_owner="dragonflow:remote_port")
    with pytest.raises(NotFound):
        cloud.update_port(made.id, {"name": "gone"})
    with pytest.raises(Rejected, match="400"):
        cloud.create_port({"network_id": network.id, "mac_address": "no MAC"})


def test_marks_and_mtu(cloud, network):
    tag = "dragonflow-stretch:b:00000000-0000-4000-8000-000000000001"
    for _ in range(2):
        cloud.add_tag(network.id, tag)
    cloud.set_mtu(network.id, 1300)
    (found,) = cloud.networks(id=network.id)
    assert (found.tags, found.mtu) == ((tag,), 1300)
    for _ in range(2):
        cloud.remove_tag(network.id, tag)
    (found,) = cloud.networks(id=network.id)
    assert not found.tags


def test_many_are_read_page_by_page_and_filters_in_pieces(cloud, network, monkeypatch):
    ports = {cloud.create_port({"network_id": network.id}).id for _ in range(7)}
    monkeypatch.setattr(module, "PAGE", 3)
    monkeypatch.setattr(module, "_IDS", 2)
    assert {port.id for port in cloud.ports(network_id=network.id)} == ports
    assert {port.id for port in cloud.ports(id=ports, network_id=[network.id])} == ports


def test_a_member_may_not_announce_ports(neutron, network, tmp_path):
    headers = {"X-Project-Id": PROJECT, "X-Roles": "member,reader"}

    class Member(BaseHTTPRequestHandler):
        """Passes on what it gets as a member of the project."""

        def do_POST(self) -> None:
            import httpx

            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = httpx.post(neutron.url + self.path, content=body, headers=headers)
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Member) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        member = Cloud("member", files=[clouds_yaml(tmp_path, member=f"http://127.0.0.1:{proxy.server_port}")])
        profile = {"port_key": "remote_port", "host_ip": "198.51.100.7"}
        with pytest.raises(Unauthorized, match="403"):
            member.create_port({"network_id": network.id, "binding:profile": profile})
        proxy.shutdown()


def test_a_region_that_is_away_or_unknown_is_told_apart(tmp_path):
    with socket.socket() as nobody, socket.socket() as silent:
        nobody.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        file = clouds_yaml(
            tmp_path,
            nobody=f"http://127.0.0.1:{nobody.getsockname()[1]}",
            silent=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
        with pytest.raises(Unreachable, match="region nobody"):
            Cloud("nobody", files=[file]).agents()
        with pytest.raises(Unreachable, match="region silent"):
            Cloud("silent", files=[file], timeout=0.2).agents()
    with pytest.raises(Misconfigured, match="region other"):
        Cloud("other", files=[file]).agents()
    file.write_text("clouds: [")
    with pytest.raises(Misconfigured):
        Cloud("silent", files=[file]).agents()
    with pytest.raises(Misconfigured):
        Cloud("silent", files=[tmp_path / "missing.yaml"]).agents()
