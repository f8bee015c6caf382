"""What both directions of the firewall have in common. Stateful by Open vSwitch's connection tracking, each port in its own zone.

::

    track ─► state ─► rules ─► allowed (commit) ─► on its way
       │       └ answers to what was allowed before, and errors about it
       └ what isn't IP, or must never be missing

Packets in a connection's own direction are judged by the rules every time, not only the first: data-path flows make that free. So
a rule that goes cuts what it alone allowed, with the connection's next packet, and nothing else: the connection is marked, and
its answers stop as well. There is nothing to flush.

Rules of a group that differ in protocols and ports only are one conjunction (``RuleClass``): the ports here that have the group,
the addresses of the remote side, the protocols with their ports. Flows, for a direction: local ports + remote addresses + masks
of protocols and ports, never their product. What two groups name alike is one flow.

Two ports of one host don't share a zone: a connection that one may begin but the other may not get is known to the first alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from dragonflow.apps.base import App, renders
from dragonflow.apps.wiring import wired
from dragonflow.controller.view import Me, View
from dragonflow.model import AddressGroup, GroupMember, LogicalPort, RuleClass, SecurityGroup, SecurityRule, by_class
from dragonflow.pipeline import Bits, Clause, Fact, Table, Trouble, match
from dragonflow.pipeline.action import Track

IP = {4: 0x0800, 6: 0x86DD}
_NEW, _EST, _REL, _RPL, _INV, _TRK = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Bits of ``ct_state`` (ovs-fields(7))."""

_REFUSED = 1
"""``ct_mark`` of a connection that the rules allow no more."""

_ALL, _RULES = 21, 20
_PORT_FIELD = {6: "tcp_dst", 17: "udp_dst", 132: "sctp_dst"}
_ICMP_FIELD = {1: ("icmpv4_type", "icmpv4_code"), 58: ("icmpv6_type", "icmpv6_code")}

STATE_FIELDS = ("ct_state", "ct_mark", "eth_type")
ICMP_FIELDS = ("icmpv4_type", "icmpv4_code", "icmpv6_type", "icmpv6_code")
RULE_FIELDS = ("conj_id", "eth_type", "ip_proto", *_PORT_FIELD.values(), *ICMP_FIELDS)

NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 134, 135, 136, 143)
"""ICMPv6 types without which IPv6 doesn't work: MLD, neighbour discovery (RFC 4890 §4.4). ``guard`` looks at who sends them."""


class Filter(App):
    """One direction. A subclass names it, has the tables, and says by which bits and fields it knows the two sides."""

    direction: ClassVar[str]
    whose: ClassVar[Bits]
    remote: ClassVar[dict[int, str]]
    """The field of the remote side's address, by IP version."""

    track: ClassVar[Table]
    state: ClassVar[Table]
    rules: ClassVar[Table]
    allowed: ClassVar[Table]
    refused: ClassVar[Table]

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What holds for all connections."""
        yield from super().host(me, view)
        for eth_type in IP.values():
            answer = (_TRK | _EST | _RPL, _TRK | _EST | _RPL | _INV)
            error = (_TRK | _REL, _TRK | _REL | _INV)
            for state in (answer, error):
                yield self.state.flow(20, match(ct_state=state, ct_mark=0, eth_type=eth_type), goto=self.allowed)
            for bits in (_TRK | _INV, _TRK | _RPL):  # the latter answers what is refused by now
                yield self.state.flow(15, match(ct_state=(bits, bits), eth_type=eth_type))

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The port's own way through the tables, and its share in the conjunctions of its groups."""
        if not port.port_security:
            return
        ofport = wired(port, view.me.chassis, view)
        if ofport is None:
            return
        groups = {name: view.get(SecurityGroup, name) for name in port.security_groups}
        if missing := [name for name, row in groups.items() if row is None]:
            yield Trouble(f"what security groups allow that are not known yet is refused: {', '.join(missing)}")
        stateless = bool(groups) and all(row is not None and not row.stateful for row in groups.values())
        yield from self._track(port, None if stateless else conntrack_zone(port, ofport))
        yield from self.unfiltered(port)
        for name in groups:
            for found in view.where(RuleClass, group=name):
                if found.direction == self.direction:
                    yield self._of_port(port, found)

    def unfiltered(self, port: LogicalPort) -> Iterator[Fact]:
        """What no rule need allow."""
        for kind in NEIGHBOUR_DISCOVERY:
            icmp = {"eth_type": IP[6], "ip_proto": 58, "icmpv6_type": kind, "icmpv6_code": 0}
            yield self.track.flow(30, match((self.whose, port.key), **icmp), goto=self.track.miss)

    def _track(self, port: LogicalPort, zone: int | None) -> Iterator[Fact]:
        """Through the tables of states, unless the port's groups know none (``zone`` None)."""
        whose = (self.whose, port.key)
        for eth_type in IP.values():
            if zone is None:
                yield self.track.flow(20, match(whose, eth_type=eth_type), goto=self.rules)
                continue
            yield self.track.flow(20, match(whose, eth_type=eth_type), Track(zone, self.state.number))
            commit = Track(zone, None, commit=True, mark=0)
            begins = match(whose, ct_state=(_TRK | _NEW, _TRK | _NEW), eth_type=eth_type)
            again = match(whose, ct_state=(_TRK, _TRK), ct_mark=_REFUSED, eth_type=eth_type)
            for allowed in (begins, again):
                yield self.allowed.flow(20, allowed, commit, goto=self.allowed.miss)
            stood = match(whose, ct_state=(_TRK | _EST, _TRK | _EST | _NEW), ct_mark=0, eth_type=eth_type)
            yield self.refused.flow(20, stood, Track(zone, None, commit=True, mark=_REFUSED))

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


def conntrack_zone(port: LogicalPort, ofport: int) -> int:
    """The conntrack zone of a port that is wired here."""
    return ofport if port.parent is None else 0xC000 | port.key & 0x1FFF


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
