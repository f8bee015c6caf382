"""What other regions and their tenants say: profiles of ports, tags of networks, answers of Neutron's API."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec

from dragonflow.model import LogicalPort, decode, encode, remote_vtep
from dragonflow.neutron.profile import ProfileError, decoded, read, remote
from dragonflow.regions.cloud import Cloud, CloudError, Network, Port, Subnet
from dragonflow.regions.consent import Place, peers, tag
from dragonflow.testing import worlds
from dragonflow.testing.fuzz import disturbed, fuzz, mutated, nested

PROFILE = {
    "port_key": "remote_port",
    "host_ip": "198.51.100.7",
    "region": "west",
    "network_type": "vxlan",
    "segmentation_id": 77,
    "status": "ACTIVE",
}
TAG = tag(Place("west", "1c9f2f0e-6a0b-4a39-8f8a-111111111111")).encode()
PORT = worlds.port("p", 7)


def test_a_profile_is_none_of_ours_or_makes_a_row_or_is_refused() -> None:
    """What passes the door of Neutron's API passes the controllers' too."""

    def check(profile: Any) -> None:
        with contextlib.suppress(ProfileError):
            found = read(profile)
            if found is not None:
                row = msgspec.structs.replace(PORT, chassis=found.chassis, remote=found.end)
                assert decode(LogicalPort.__name__, "p", encode(row)) == row
                assert remote_vtep(row.chassis) == found.host_ip
        remote(profile, None)

    fuzz(4000, lambda random: disturbed(random, PROFILE), check)


def test_a_profile_in_neutrons_table_is_read_or_empty() -> None:
    def make(random: Random) -> str:
        data = mutated(random, [json.dumps(PROFILE).encode(), b"{}"])
        return (data if random.random() < 0.95 else nested()).decode(errors="replace")

    fuzz(1000, make, lambda text: decoded(text).keys())


def test_tags_name_networks_or_nobody() -> None:
    def check(text: str) -> None:
        for peer in peers([text, TAG.decode()]):
            assert tag(peer) in (text, TAG.decode())

    fuzz(2000, lambda random: mutated(random, [TAG, b"dragonflow-stretch-mtu:1500"]).decode(errors="replace"), check)


ADDRESS = {"subnet_id": "s", "ip_address": "10.0.0.7"}
OBJECTS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "networks": (Network, {"id": "n", "name": "n", "project_id": "p", "tags": [TAG.decode()], "mtu": 1442}),
    "subnets": (Subnet, {"id": "s", "network_id": "n", "cidr": "10.0.0.0/24", "ip_version": 4, "gateway_ip": None}),
    "ports": (Port, {"id": "p", "network_id": "n", "mac_address": PORT.mac, "fixed_ips": [ADDRESS]}),
}


def test_what_a_region_answers_is_read_or_said_to_be_wrong() -> None:
    cloud = Cloud("west")
    for name, (kind, good) in OBJECTS.items():
        assert len(cloud._decode(json.dumps({name: [good]}).encode(), name, list[kind])) == 1  # type: ignore[valid-type]

    def make(random: Random) -> tuple[str, bytes]:
        name = random.choice(sorted(OBJECTS))
        answer = {name: [OBJECTS[name][1]] * 2}
        if random.random() < 0.03:
            return name, b'{"%s":' % name.encode() + nested()
        if random.random() < 0.3:
            return name, mutated(random, [json.dumps(answer).encode()])
        return name, json.dumps(disturbed(random, answer)).encode()

    def check(made: tuple[str, bytes]) -> None:
        name, answer = made
        with contextlib.suppress(CloudError):
            cloud._decode(answer, name, list[OBJECTS[name][0]])  # type: ignore[misc]

    fuzz(2000, make, check)
