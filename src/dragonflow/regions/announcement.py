"""A port of one region as it is announced in another: what it is to be there, and what an announced port lacks of that. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_network
from typing import Any

import msgspec

from dragonflow.regions.agreement import Views, automatic, counterparts
from dragonflow.regions.claims import Address
from dragonflow.regions.cloud import Network, Port, Subnet
from dragonflow.regions.consent import Place
from dragonflow.regions.view import OWNER, Home

DEFAULT_GROUP = "default"
"""The name of the security group that Neutron makes for each project."""

_FixedIp = tuple[str, str]
"""A subnet's id and an address; an empty one where it follows from the MAC, for Neutron takes none then."""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An announced port as it should be. What is None is left as it is, or to Neutron."""

    home: Home
    network: str
    name: str
    admin_state_up: bool
    mac_address: str
    fixed_ips: frozenset[_FixedIp]
    port_security_enabled: bool | None
    security_groups: frozenset[str] | None
    allowed_address_pairs: frozenset[tuple[str, str]]
    profile: Mapping[str, Any]
    ungrouped: bool
    """At home it has security groups, but here there is none that goes by the name of one of them."""

    def addresses(self, subnets: Mapping[str, Subnet]) -> Iterator[Address]:
        """What it claims in its network; ``subnets`` are those of the region where it is announced."""
        yield Address("", self.mac_address)
        for subnet, address in self.fixed_ips:
            if address:
                yield Address(subnets[subnet].cidr, address)


class Crossing:
    """From a network of one region, ``home``, to the network ``place`` of another with which it is stretched. Both are known."""

    def __init__(self, views: Views, home: Place, place: Place) -> None:
        there, here = views[home.region], views[place.region]
        if there is None or here is None:
            raise ValueError(f"nothing is known of both {home} and {place}")
        self.home, self.place = home, place
        self.there, self.here = there, here
        self._subnets = counterparts(views, home, place)
        sender, receiver = there.networks[home.network], here.networks[place.network]
        self._tunnel: dict[str, Any] = {}
        if (sender.network_type, sender.segmentation_id) != (receiver.network_type, receiver.segmentation_id):
            self._tunnel = {"network_type": sender.network_type, "segmentation_id": sender.segmentation_id}
        self._names = {it.id: it.name for it in there.groups if it.project_id == sender.project_id}
        self._groups = {it.name: it.id for it in reversed(here.groups) if it.project_id == receiver.project_id}

    def announce(self, port: Port, host_ip: str) -> Announcement | str:
        """A port of the network ``home`` as it is to be announced, or why it can't be."""
        fixed_ips = set()
        for fixed in port.fixed_ips:
            subnet = self._subnets.get(fixed.subnet_id)
            if subnet is None:
                return f"{fixed.ip_address} lies in no subnet that {self.place} has, too"
            fixed_ips.add((subnet.id, "" if automatic(subnet) else fixed.ip_address))
        groups = self._same_groups(port)
        profile = {
            "port_key": "remote_port",
            "host_ip": host_ip,
            "region": self.home.region,
            "status": "ACTIVE" if port.status == "ACTIVE" else "DOWN",
        }
        return Announcement(
            home=Home(self.home.region, port.id),
            network=self.place.network,
            name=port.name,
            admin_state_up=port.admin_state_up,
            mac_address=port.mac_address,
            fixed_ips=frozenset(fixed_ips),
            port_security_enabled=port.port_security_enabled,
            security_groups=groups,
            allowed_address_pairs=frozenset(
                (it.ip_address, it.mac_address) for it in port.allowed_address_pairs if self._is_inside(it.ip_address)
            ),
            profile=profile | self._tunnel,
            ungrouped=groups == frozenset() and bool(port.security_groups),
        )

    def _same_groups(self, port: Port) -> frozenset[str] | None:
        """Of the home network's project's groups, those with the same names in the receiving network's project; no others.

        None if that would be the default group, and it isn't there yet: Neutron makes it for the project's first port, and
        gives it to that.
        """
        names = {self._names.get(it, "") for it in port.security_groups}
        found = frozenset(self._groups[name] for name in names if name in self._groups)
        return None if not found and DEFAULT_GROUP in names else found

    def _is_inside(self, pair: str) -> bool:
        """Whether the address, or prefix, lies in a subnet that both sides have: no others become a group's members here."""
        return any(_within(pair, subnet.cidr) for subnet in self._subnets.values())


def _within(inner: str, outer: str) -> bool:
    one, other = ip_network(inner, strict=False), ip_network(outer)
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]  # the versions are equal


def creation(wanted: Announcement, receiver: Network) -> dict[str, Any]:
    """The body of the port's creation."""
    return {
        "network_id": wanted.network,
        "project_id": receiver.project_id,
        "device_owner": OWNER,
        "device_id": str(wanted.home),
        **_attributes(wanted),
    }


def changes(wanted: Announcement, port: Port, subnets: Mapping[str, Subnet]) -> dict[str, Any]:
    """What must be changed of an announced port; ``subnets`` are those of its region."""
    now = {
        "name": port.name,
        "admin_state_up": port.admin_state_up,
        "mac_address": port.mac_address,
        "fixed_ips": frozenset(
            (it.subnet_id, "" if (subnet := subnets.get(it.subnet_id)) and automatic(subnet) else it.ip_address)
            for it in port.fixed_ips
        ),
        "port_security_enabled": port.port_security_enabled,
        "security_groups": frozenset(port.security_groups),
        "allowed_address_pairs": frozenset((it.ip_address, it.mac_address) for it in port.allowed_address_pairs),
        "profile": port.profile,
    }
    differ = {name for name, value in now.items() if getattr(wanted, name) not in (value, None)}
    return {} if not differ else _attributes(wanted, differ)


def _attributes(wanted: Announcement, names: Collection[str] | None = None) -> dict[str, Any]:
    """Those of these names, or all, as Neutron takes them."""
    shown: dict[str, Any] = {
        "name": wanted.name,
        "admin_state_up": wanted.admin_state_up,
        "mac_address": wanted.mac_address,
        "fixed_ips": [
            {"subnet_id": subnet, "ip_address": address} if address else {"subnet_id": subnet}
            for subnet, address in sorted(wanted.fixed_ips)
        ],
        "port_security_enabled": wanted.port_security_enabled,
        "security_groups": None if wanted.security_groups is None else sorted(wanted.security_groups),
        "allowed_address_pairs": [
            {"ip_address": address, "mac_address": mac} for address, mac in sorted(wanted.allowed_address_pairs)
        ],
        "profile": dict(wanted.profile),
    }
    return {
        "binding:profile" if name == "profile" else name: value
        for name, value in shown.items()
        if value is not None and (names is None or name in names)
    }
