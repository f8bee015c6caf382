"""Neutron's security groups in plain Python: the judge of what flows and packets do. It shares no code with the compiler.

Source: the Networking API's security group rules, and ``neutron.db.securitygroups_db``: rules only allow; a rule without a
protocol means all, one without ports all ports; of ICMP the range is type and code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from dragonflow.model import AddressGroup, LogicalPort, SecurityGroup, SecurityRule

_PORTS = frozenset({6, 17, 33, 132, 136})
_ICMP = frozenset({1, 58})


class Packet(msgspec.Struct, frozen=True):
    """The first packet of a connection. ``first`` and ``last`` are the ports from and to; or of ICMP the type and the code."""

    source: str
    destination: str
    protocol: int
    first: int = 0
    last: int = 0


class Judge:
    """Knows all groups and all ports that are members of any."""

    def __init__(
        self,
        groups: Collection[SecurityGroup],
        ports: Collection[LogicalPort],
        address_groups: Collection[AddressGroup] = (),
    ) -> None:
        self._groups = {group.id: group for group in groups}
        self._address_groups: Mapping[str, AddressGroup] = {group.id: group for group in address_groups}
        self._ports = ports

    def allows(self, port: LogicalPort, direction: str, packet: Packet) -> bool:
        """Whether the port may send (``egress``) or get (``ingress``) the packet."""
        if not port.port_security:
            return True
        remote = packet.destination if direction == "egress" else packet.source
        groups = [group for name in port.security_groups if (group := self._groups.get(name)) is not None]
        return any(
            rule.direction == direction and self._matches(rule, remote, packet)
            for group in groups
            for rule in group.rules
        )

    def _matches(self, rule: SecurityRule, remote: str, packet: Packet) -> bool:
        if ip_address(remote).version != rule.ip_version or not self._is_remote(rule, remote):
            return False
        if rule.protocol is None:
            return True
        if rule.protocol != packet.protocol:
            return False
        if packet.protocol in _ICMP:
            return rule.first in (None, packet.first) and rule.last in (None, packet.last)
        if packet.protocol in _PORTS and rule.first is not None and rule.last is not None:
            return rule.first <= packet.last <= rule.last
        return True

    def _is_remote(self, rule: SecurityRule, remote: str) -> bool:
        if rule.remote_group is not None:
            members = (port for port in self._ports if rule.remote_group in port.security_groups)
            return any(_in(remote, prefix) for port in members for prefix in _addresses(port))
        if rule.address_group is not None:
            group = self._address_groups.get(rule.address_group)
            return group is not None and any(_in(remote, prefix) for prefix in group.addresses)
        return rule.prefix is None or _in(remote, rule.prefix)


def _addresses(port: LogicalPort) -> list[str]:
    return [*port.ips, *(pair.ip for pair in port.address_pairs)]


def _in(address: str, prefix: str) -> bool:
    one, network = ip_address(address), ip_network(prefix, strict=False)
    return one.version == network.version and one in network
