"""What both directions of the firewall have in common. Stateful by Open vSwitch's connection tracking, each port in its own zone.

::

    track ─► state ─► rules ─► allowed (commit) ─► on its way
       │       └ answers to what was allowed before
       └ what must never be missing

Closed by default: a packet passes only if a flow says so, also where the port's own flows aren't there (yet).

Packets in a connection's own direction are judged by the rules every time, not only the first: data-path flows make that free. So
a rule that goes cuts what it alone allowed, with the connection's next packet, and nothing else: the connection is marked, and
its answers stop as well.

Rules of a group that differ in protocols and ports only are one conjunction (``RuleClass``): the ports here that have the group,
the addresses of the remote side, the protocols with their ports. Flows, for a direction: local ports + remote addresses + masks
of protocols and ports, never their product. What two groups name alike is one flow.

Two ports of one host don't share a zone: a connection that one may begin but the other may not get is known to the first alone.
Which zone it is, is known to the packet (``ZONE``), so of each port there are but two flows here, and its share in conjunctions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from dragonflow.apps.base import App, renders
from dragonflow.apps.wiring import is_here, is_secured, wired
from dragonflow.controller.view import Me, View
from dragonflow.model import (
    AddressGroup,
    GroupMember,
    LogicalPort,
    RuleClass,
    SecurityGroup,
    SecurityRule,
    Zone,
    by_class,
)
from dragonflow.pipeline import Bits, Clause, Fact, Table, Trouble, load, match
from dragonflow.pipeline.action import Track
from dragonflow.pipeline.registers import ZONE

IP = {4: 0x0800, 6: 0x86DD}
_NEW, _EST, _REL, _RPL, _INV, _TRK = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Bits of ``ct_state`` (ovs-fields(7))."""

_REFUSED = 1
"""``ct_mark`` of a connection that the rules allow no more."""

_ALL, _RULES = 21, 20
_PORT_FIELD = {6: "tcp_dst", 17: "udp_dst", 132: "sctp_dst"}
_ICMP_FIELD = {1: ("icmpv4_type", "icmpv4_code"), 58: ("icmpv6_type", "icmpv6_code")}

_HELPERS = ((6, "tcp_dst", 21), (17, "udp_dst", 69))
"""Protocols whose connections announce others (FTP, TFTP), which Open vSwitch finds in them (``alg`` in ovs-actions(7))."""

STATE_FIELDS = ("ct_state", "ct_mark", "eth_type")
ALLOWED_FIELDS = (*STATE_FIELDS, "ip_proto", "tcp_dst", "udp_dst")
ICMP_FIELDS = ("icmpv4_type", "icmpv4_code", "icmpv6_type", "icmpv6_code")
RULE_FIELDS = ("conj_id", "eth_type", "ip_proto", *_PORT_FIELD.values(), *ICMP_FIELDS)


class Filter(App):
    """One direction. A subclass names it, has the tables, and says by which bits and fields it knows the two sides."""

    direction: ClassVar[str]
    whose: ClassVar[Bits]
    neighbour_discovery: ClassVar[tuple[int, ...]]
    """ICMPv6 types without which IPv6 doesn't work: no rule need allow them (RFC 4890 §4.4, as in Neutron's own firewalls)."""

    dhcp: ClassVar[tuple[tuple[int, int, int], ...]]
    """IP version, source and destination port of DHCP, which no rule need allow either."""

    remote: ClassVar[dict[int, str]]
    """The field of the remote side's address, by IP version."""

    track: ClassVar[Table]
    state: ClassVar[Table]
    rules: ClassVar[Table]
    allowed: ClassVar[Table]
    refused: ClassVar[Table]

    @property
    def onward(self) -> Table:
        """Where packets go that may pass."""
        assert self.allowed.miss is not None
        return self.allowed.miss

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What holds for all ports and connections."""
        yield from super().host(me, view)
        for kind in self.neighbour_discovery:
            found = match(eth_type=IP[6], ip_proto=58, icmpv6_type=kind, icmpv6_code=0)
            yield self.track.flow(30, found, goto=self.onward)
        for version, source, destination in self.dhcp:
            leases = match(eth_type=IP[version], ip_proto=17, udp_src=source, udp_dst=destination)
            yield self.track.flow(30, leases, goto=self.onward)
        for eth_type in IP.values():
            yield from self._states(eth_type)
            yield from self._verdicts(eth_type)

    def _states(self, eth_type: int) -> Iterator[Fact]:
        answers, relates = (_TRK | _EST | _RPL, _TRK | _EST | _RPL | _INV), (_TRK | _REL, _TRK | _REL | _INV)
        yield self.state.flow(20, match(ct_state=answers, ct_mark=0, eth_type=eth_type), goto=self.onward)
        yield self.state.flow(20, match(ct_state=relates, ct_mark=0, eth_type=eth_type), goto=self.allowed)
        for bits in (_TRK | _INV, _TRK | _RPL):  # the latter answers what is refused by now
            yield self.state.flow(15, match(ct_state=(bits, bits), eth_type=eth_type))

    def _verdicts(self, eth_type: int) -> Iterator[Fact]:
        begins, again = (_TRK | _NEW, _TRK | _NEW), (_TRK, _TRK)
        commit = Track(ZONE, None, commit=True, mark=0)
        yield self.allowed.flow(20, match(ct_state=begins, eth_type=eth_type), commit, goto=self.onward)
        yield self.allowed.flow(
            20, match(ct_state=again, ct_mark=_REFUSED, eth_type=eth_type), commit, goto=self.onward
        )
        for protocol, field, port in _HELPERS:
            helped = match(ct_state=begins, eth_type=eth_type, ip_proto=protocol, **{field: port})
            helping = Track(ZONE, None, commit=True, mark=0, helper=port)
            yield self.allowed.flow(30, helped, helping, goto=self.onward)
        stood = match(ct_state=(_TRK | _EST, _TRK | _EST | _NEW), ct_mark=0, eth_type=eth_type)
        yield self.refused.flow(20, stood, Track(ZONE, None, commit=True, mark=_REFUSED))

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The port's own way through the tables, and its share in the conjunctions of its groups."""
        if wired(port, view.me.chassis, view) is None:
            return
        if not is_secured(port):
            yield self.track.flow(40, match((self.whose, port.key)), goto=self.onward)
            return
        groups = {name: view.get(SecurityGroup, name) for name in port.security_groups}
        if missing := [name for name, row in groups.items() if row is None]:
            yield Trouble(f"what security groups allow that are not known yet is refused: {', '.join(missing)}")
        yield from self._track(
            port, bool(groups) and all(it is not None and not it.stateful for it in groups.values()), view
        )
        for name in groups:
            for found in view.where(RuleClass, group=name):
                if found.direction == self.direction:
                    yield self._of_port(port, found)

    def _track(self, port: LogicalPort, stateless: bool, view: View) -> Iterator[Fact]:
        """Through the tables of states, unless the port's groups know none."""
        zone = view.get(Zone, port.id)
        if zone is None and not stateless:
            yield Trouble("nothing may pass until the port's binding to this chassis is known")
            return
        for eth_type in IP.values():
            whose = match((self.whose, port.key), eth_type=eth_type)
            if zone is None or stateless:
                yield self.track.flow(20, whose, goto=self.rules)
            else:
                yield self.track.flow(20, whose, load(ZONE, zone.number), Track(zone.number, self.state.number))

    def _of_port(self, port: LogicalPort, found: RuleClass) -> Fact:
        where = match((self.whose, port.key), eth_type=IP[found.ip_version])
        if found.dimensions == 1:
            return self.rules.flow(_ALL, where, goto=self.allowed)
        return Clause(self.rules.number, _RULES, where, found.number, 1, found.dimensions)

    @renders(SecurityGroup)
    def group(self, group: SecurityGroup, view: View) -> Iterator[Fact]:
        """Of each class of rules the protocols and ports, and the addresses unless they are those of a group's members."""
        rules_of = by_class(group)
        for found in view.where(RuleClass, group=group.id):
            if found.direction != self.direction or found.dimensions == 1:  # then the ports say it all
                continue
            rules, ip = rules_of[found.id], {"eth_type": IP[found.ip_version]}
            yield self.rules.flow(_RULES, match(conj_id=found.number, **ip), goto=self.allowed)
            ruled = ((rule, rule.protocol) for rule in rules if rule.protocol is not None)
            for fields in {tuple(it.items()) for rule, protocol in ruled for it in _traffic(rule, protocol)}:
                what = match(**ip, **dict(fields))
                yield Clause(self.rules.number, _RULES, what, found.number, 2, found.dimensions)
            for prefix in () if found.anybody else _remote(rules[0], view):
                yield from self._address(found, prefix)

    @renders(GroupMember)
    def member(self, member: GroupMember, view: View) -> Iterator[Fact]:
        """Of each class whose remote side the group is, the member's addresses."""
        for found in view.where(RuleClass, remote_group=member.group):
            if found.direction == self.direction:
                for address in member.addresses:
                    yield from self._address(found, address)

    def _address(self, found: RuleClass, prefix: str) -> Iterator[Fact]:
        version = found.ip_version
        if (":" in prefix) != (version == 6):
            return
        address = {} if prefix.endswith("/0") else {self.remote[version]: prefix}
        where = match(eth_type=IP[version], **address)
        yield Clause(self.rules.number, _RULES, where, found.number, found.dimensions, found.dimensions)


def _remote(rule: SecurityRule, view: View) -> Iterable[str]:
    """The prefixes of a class's remote side. Those of a group's members are rendered with them."""
    if rule.address_group is not None:
        group = view.get(AddressGroup, rule.address_group)
        return () if group is None else group.addresses
    return () if rule.prefix is None else (rule.prefix,)


def _traffic(rule: SecurityRule, protocol: int) -> Iterator[dict[str, Any]]:
    """What packets look like that a rule for one ``protocol`` speaks of: fields of a match."""
    base: dict[str, Any] = {"ip_proto": protocol}
    if protocol in _ICMP_FIELD:
        fields = zip(_ICMP_FIELD[protocol], (rule.first, rule.last), strict=True)
        yield base | {name: value for name, value in fields if value is not None}
        return
    field = _PORT_FIELD.get(protocol)
    if field is None or rule.first is None or rule.last is None:
        yield base
        return
    for value, mask in port_masks(rule.first, rule.last):
        yield base | {field: (value, mask)}


def port_masks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest values under masks that make up a range of ports, both ends included; at the most 30."""
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        yield first, 0xFFFF & ~(size - 1)
        first += size
