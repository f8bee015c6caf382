"""A region's Neutron in memory, as the orchestrator sees it: for tests without servers, and for many regions in one benchmark.

It refuses what Neutron refuses of the orchestrator (addresses and MACs that are taken, addresses on subnets that assign them
themselves, unknown objects), and can be away, or fail after some more writes.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv6Network
from typing import Any, TypeVar

import msgspec

from dragonflow.regions.agreement import automatic
from dragonflow.regions.cloud import (
    AddressPair,
    Agent,
    Conflict,
    Filter,
    FixedIp,
    Network,
    NotFound,
    Port,
    Rejected,
    SecurityGroup,
    Subnet,
    Unreachable,
)

_FIELDS = dict(zip(Port.__struct_encode_fields__, Port.__struct_fields__, strict=True))
"""A port's fields by the names that the API has for them."""

_T = TypeVar("_T", Network, Subnet, Port, SecurityGroup)


class FakeCloud:
    """Implements ``RegionApi``. ``clock`` gives what stands in ``created_at``. Threads may share what that has."""

    def __init__(self, name: str, clock: Callable[[], str] | None = None) -> None:
        self.name = name
        self._lock = threading.RLock()
        ticks = itertools.count()
        self._clock = clock or (lambda: f"{next(ticks):012}")
        self.all_networks: dict[str, Network] = {}
        self.all_subnets: dict[str, Subnet] = {}
        self.all_ports: dict[str, Port] = {}
        self.all_groups: dict[str, SecurityGroup] = {}
        self.all_agents: dict[str, Agent] = {}
        self.away = False
        self.writes_left: int | None = None
        """So many more writes are done; at the one after that the region fails. None: no limit."""
        self.reads = 0
        self.writes = 0

    # -- RegionApi -------------------------------------------------------------------------------------------------------

    def networks(self, **filters: Filter) -> list[Network]:
        """See ``RegionApi``."""
        return self._read(self.all_networks, filters)

    def subnets(self, **filters: Filter) -> list[Subnet]:
        """See ``RegionApi``."""
        return self._read(self.all_subnets, filters)

    def ports(self, **filters: Filter) -> list[Port]:
        """See ``RegionApi``."""
        return self._read(self.all_ports, filters)

    def security_groups(self, **filters: Filter) -> list[SecurityGroup]:
        """See ``RegionApi``."""
        return self._read(self.all_groups, filters)

    def agents(self) -> list[Agent]:
        """See ``RegionApi``."""
        self._answers()
        self.reads += 1
        return list(self.all_agents.values())

    def create_port(self, port: Mapping[str, Any]) -> Port:
        """See ``RegionApi``."""
        with self._lock:
            return self._create(port)

    def _create(self, port: Mapping[str, Any]) -> Port:
        self._write()
        if port["network_id"] not in self.all_networks:
            raise NotFound(self.name, f"no network {port['network_id']}", "NetworkNotFound")
        security = port.get("port_security_enabled", True)
        groups = [self.default_group(port["project_id"])] if security else []
        blank = Port(
            id=str(uuid.uuid4()),
            network_id=port["network_id"],
            project_id=port["project_id"],
            mac_address="",
            port_security_enabled=security,
            security_groups=tuple(groups),
            status="DOWN",
            created_at=self._clock(),
        )
        return self._put(blank, port)

    def update_port(self, port: str, changes: Mapping[str, Any]) -> Port:
        """See ``RegionApi``."""
        with self._lock:
            self._write()
            if port not in self.all_ports:
                raise NotFound(self.name, f"no port {port}", "PortNotFound")
            return self._put(self.all_ports[port], changes)

    def delete_port(self, port: str) -> None:
        """See ``RegionApi``."""
        with self._lock:
            self._write()
            self.all_ports.pop(port, None)

    def set_mtu(self, network: str, mtu: int) -> None:
        """See ``RegionApi``."""
        self._change(network, mtu=mtu)

    def add_tag(self, network: str, tag: str) -> None:
        """See ``RegionApi``."""
        self._change(network, tags=tuple(sorted({*self.all_networks[network].tags, tag})))

    def remove_tag(self, network: str, tag: str) -> None:
        """See ``RegionApi``."""
        self._change(network, tags=tuple(it for it in self.all_networks[network].tags if it != tag))

    # -- what tenants and hosts do ---------------------------------------------------------------------------------------

    def default_group(self, project: str) -> str:
        """The project's default security group, made if it is not there."""
        group = SecurityGroup(
            id=str(uuid.uuid5(uuid.NAMESPACE_OID, self.name + project)), name="default", project_id=project
        )
        return self.all_groups.setdefault(group.id, group).id

    def plug(self, port: Port) -> Port:
        """A port of the region's own; made, or changed, under Neutron's rules."""
        with self._lock:
            self._check(port)
            self.all_ports[port.id] = port
        return port

    # -- how -------------------------------------------------------------------------------------------------------------

    def _read(self, objects: Mapping[str, _T], filters: Mapping[str, Filter]) -> list[_T]:
        self._answers()
        self.reads += 1
        return [
            it for it in objects.values() if all(_passes(getattr(it, name), value) for name, value in filters.items())
        ]

    def _answers(self) -> None:
        if self.away:
            raise Unreachable(self.name, "it is away")

    def _write(self) -> None:
        self._answers()
        if self.writes_left is not None:
            if not self.writes_left:
                raise Unreachable(self.name, "it fails now")
            self.writes_left -= 1
        self.writes += 1

    def _change(self, network: str, **changes: Any) -> None:
        self._write()
        if network not in self.all_networks:
            raise NotFound(self.name, f"no network {network}", "NetworkNotFound")
        self.all_networks[network] = msgspec.structs.replace(self.all_networks[network], **changes)

    def _put(self, before: Port, changes: Mapping[str, Any]) -> Port:
        values = {_FIELDS[name]: value for name, value in changes.items()}
        mac = values.get("mac_address", before.mac_address)
        if "fixed_ips" in values:
            values["fixed_ips"] = tuple(self._address(mac, it) for it in values["fixed_ips"])
        if "allowed_address_pairs" in values:
            values["allowed_address_pairs"] = tuple(AddressPair(**it) for it in values["allowed_address_pairs"])
        if "security_groups" in values:
            values["security_groups"] = tuple(values["security_groups"])
        return self.plug(msgspec.structs.replace(before, **values))

    def _address(self, mac: str, wanted: Mapping[str, str]) -> FixedIp:
        subnet = self.all_subnets[wanted["subnet_id"]]
        if not automatic(subnet):
            return FixedIp(subnet.id, wanted["ip_address"])
        if "ip_address" in wanted:
            raise Rejected(self.name, f"addresses of {subnet.cidr} are automatic", "InvalidInput")
        return FixedIp(subnet.id, eui64(subnet.cidr, mac))

    def _check(self, port: Port) -> None:
        for other in self.all_ports.values():
            if other.network_id != port.network_id or other.id == port.id:
                continue
            if other.mac_address == port.mac_address:
                raise Conflict(self.name, f"MAC {port.mac_address} is taken", "MacAddressInUse")
            if not set(other.fixed_ips).isdisjoint(port.fixed_ips):
                raise Conflict(self.name, f"an address of {port.fixed_ips} is taken", "IpAddressAlreadyAllocated")


def eui64(cidr: str, mac: str) -> str:
    """The address in an IPv6 /64 that follows from a MAC (RFC 4291, appendix A)."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 2
    octets[3:3] = [0xFF, 0xFE]
    return str(IPv6Network(cidr)[int.from_bytes(bytes(octets))])


def _passes(value: Any, wanted: Filter) -> bool:
    return value in wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else value == wanted
