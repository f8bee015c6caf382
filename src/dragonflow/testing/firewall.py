"""Neutron's security groups in plain Python: the judge of what flows and packets do. It shares no code with the compiler.

Sources: the Networking API's security group rules, ``neutron.db.securitygroups_db`` and ``neutron.agent.firewall``. Rules only
allow; a rule without a protocol means all, one without ports all ports; of ICMP the range is type and code. DHCP and what IPv6
needs to find neighbours pass whatever the rules say. Neutron's own ports and those without port security are left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from dragonflow.model import AddressGroup, LogicalPort, SecurityGroup, SecurityRule

_PORTS = frozenset({6, 17, 33, 132, 136})
_ICMP = frozenset({1, 58})
_NEIGHBOURS = {"egress": (130, 131, 132, 133, 135, 136, 143), "ingress": (130, 131, 132, 134, 135, 136, 143)}
_LEASES = {"egress": {4: (68, 67), 6: (546, 547)}, "ingress": {4: (67, 68), 6: (547, 546)}}


class Packet(msgspec.Struct, frozen=True):
    """The first packet of a connection. ``first`` and ``last`` are the ports from and to; or of ICMP the type and the code.

    They are None in a later fragment that nobody has put together with its first.
    """

    source: str
    destination: str
    protocol: int
    first: int | None = 0
    last: int | None = 0

    @property
    def version(self) -> int:
        """Of IP."""
        return ip_address(self.source).version


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
        """Whether the port may send (``egress``) or get (``ingress``) the packet, and with states all of its connection."""
        if not port.port_security or port.device_owner.startswith(("network:", "neutron:")):
            return True
        if packet.protocol == 58 and packet.first in _NEIGHBOURS[direction] and packet.last == 0:
            return True
        if packet.protocol == 17 and (packet.first, packet.last) == _LEASES[direction][packet.version]:
            return True
        remote = packet.destination if direction == "egress" else packet.source
        groups = [group for name in port.security_groups if (group := self._groups.get(name)) is not None]
        return any(
            rule.direction == direction and self._matches(rule, remote, packet)
            for group in groups
            for rule in group.rules
        )

    def _matches(self, rule: SecurityRule, remote: str, packet: Packet) -> bool:
        if packet.version != rule.ip_version or not self._is_remote(rule, remote):
            return False
        if rule.protocol is None:
            return True
        if rule.protocol != packet.protocol:
            return False
        if packet.protocol in _ICMP:
            return rule.first in (None, packet.first) and rule.last in (None, packet.last)
        if packet.protocol in _PORTS and rule.first is not None and rule.last is not None:
            return packet.last is not None and rule.first <= packet.last <= rule.last
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
    """Under which the port is a member. A pair of all addresses makes nobody else one (Neutron holds it to the port's MAC)."""
    return [it for it in (*port.ips, *(pair.ip for pair in port.address_pairs)) if not it.endswith("/0")]


def _in(address: str, prefix: str) -> bool:
    one, network = ip_address(address), ip_network(prefix, strict=False)
    return one.version == network.version and one in network
