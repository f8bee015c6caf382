"""The rules of security groups: two tables that the firewall asks about a packet's connection, one for each direction of rules.

They are asked by ``Resubmit``, with the port whose groups count in ``WHOSE``, and say yes by ``ALLOWED``. What they are asked of
is how the connection began (``ct_nw_src`` and its like, ovs-fields(7)), not what the packet looks like. So a connection's
answers, the errors about it and what a helper relates to it are judged just as its first packet was. Groups that keep no states
(``stateful=false``) know no connections: of theirs the packet itself is judged.

Rules of a group that differ in protocols and ports only are one conjunction (``RuleClass``): the ports here that have the group,
the addresses of the remote side, the protocols with their ports. Flows, for a class: 1, and 1 a local port, remote address, and
mask of protocol and ports, never their product. What two classes name alike is one flow.

Where Open vSwitch can't tell what a rule names, the rule allows less than it says, never more: see ``_traffic``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_interface
from typing import Any, NamedTuple

from dragonflow.apps.base import App, renders
from dragonflow.apps.wiring import is_here, is_secured, wired
from dragonflow.controller.view import View
from dragonflow.model import (
    AddressGroup,
    GroupMember,
    LogicalPort,
    RuleClass,
    SecurityGroup,
    SecurityRule,
    by_class,
)
from dragonflow.pipeline import Clause, Fact, Stage, Table, Trouble, load, match, port_masks
from dragonflow.pipeline.registers import ALLOWED, WHOSE

IP = {4: 0x0800, 6: 0x86DD}
INV, TRK = 0x10, 0x20
"""Bits of ``ct_state`` (ovs-fields(7))."""

VALID = TRK, TRK | INV
"""``ct_state`` of what belongs to a connection, or may begin one."""

_ALL, _RULES = 21, 20
_ICMP = frozenset((1, 58))
_PORTS = frozenset((6, 17, 33, 132, 136))
"""Protocols whose rules may name ports: TCP, UDP, DCCP, SCTP, UDP-Lite."""

_NO_LATER_FRAGMENT = 0, 2
"""``ip_frag``: later fragments read as if they had ICMP type and code 0."""


class _Fields(NamedTuple):
    """By what names rules are matched, and what else such a match holds. ``ports`` and ``icmp`` by protocol."""

    also: Mapping[str, Any]
    protocol: str
    ports: Mapping[int, str]
    icmp: Mapping[int, tuple[str, str]]
    remote: Mapping[tuple[str, int], str]


_BEGAN = _Fields(
    also={"ct_state": VALID},
    protocol="ct_nw_proto",
    ports=dict.fromkeys(_PORTS, "ct_tp_dst"),
    icmp=dict.fromkeys(_ICMP, ("ct_tp_src", "ct_tp_dst")),
    remote={
        ("egress", 4): "ct_nw_dst",
        ("egress", 6): "ct_ipv6_dst",
        ("ingress", 4): "ct_nw_src",
        ("ingress", 6): "ct_ipv6_src",
    },
)
"""How a connection began. Of ICMP the ports are type and code."""

_PACKET = _Fields(
    also={"ct_state": (0, TRK)},
    protocol="ip_proto",
    ports={6: "tcp_dst", 17: "udp_dst", 132: "sctp_dst"},
    icmp={1: ("icmpv4_type", "icmpv4_code"), 58: ("icmpv6_type", "icmpv6_code")},
    remote={
        ("egress", 4): "ipv4_dst",
        ("egress", 6): "ipv6_dst",
        ("ingress", 4): "ipv4_src",
        ("ingress", 6): "ipv6_src",
    },
)
"""What the packet itself says, that nobody looked up among connections."""

_MATCHES = (
    *(WHOSE, "conj_id", "ct_state", "eth_type"),
    *("ct_nw_proto", "ct_tp_src", "ct_tp_dst"),
    *("ip_proto", "tcp_dst", "udp_dst", "sctp_dst", "ip_frag"),
    *("icmpv4_type", "icmpv4_code", "icmpv6_type", "icmpv6_code"),
)


class Rules(App):
    """Compiles the security groups of this chassis's ports."""

    name = "rules"

    sends = Table(
        "egress_rules",
        Stage.RULES,
        purpose="Asked by the firewall: may the port begin the connection?",
        matches=(*_MATCHES, "ct_nw_dst", "ct_ipv6_dst", "ipv4_dst", "ipv6_dst"),
    )
    gets = Table(
        "ingress_rules",
        Stage.RULES,
        slot=1,
        purpose="Asked by the firewall: may the connection begin to the port?",
        matches=(*_MATCHES, "ct_nw_src", "ct_ipv6_src", "ipv4_src", "ipv6_src"),
    )

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """The port's share in the classes of its groups."""
        if wired(port, view.me.chassis, view) is None or not is_secured(port):
            return
        missing = [name for name in port.security_groups if view.get(SecurityGroup, name) is None]
        if missing:
            yield Trouble(f"what security groups allow that are not known yet is refused: {', '.join(missing)}")
        for found in (it for name in port.security_groups for it in view.where(RuleClass, group=name)):
            table, whose = _table(found), match((WHOSE, port.key), eth_type=IP[found.ip_version])
            if found.dimensions == 1:
                yield table.flow(_ALL, whose, load(ALLOWED, 1))
            else:
                yield Clause(table.number, _RULES, whose, found.number, 1, found.dimensions)

    @renders(SecurityGroup)
    def group(self, group: SecurityGroup, view: View) -> Iterator[Fact]:
        """Of each class of rules the protocols and ports, and the addresses unless they are those of a group's members."""
        rules_of, fields = by_class(group), _fields(group)
        for found in view.where(RuleClass, group=group.id):
            if found.dimensions == 1:  # then the ports say it all
                continue
            table, rules, ip = _table(found), rules_of[found.id], {"eth_type": IP[found.ip_version]}
            yield table.flow(_RULES, match(conj_id=found.number, **ip), load(ALLOWED, 1))
            for rule in rules if not found.anything else ():
                what = list(_traffic(rule, fields))
                if not what:
                    yield Trouble(
                        f"a rule for ports or types of protocol {rule.protocol} can't be carried out: it allows nothing"
                    )
                for each in what:
                    where = match(**ip, **fields.also, **each)
                    yield Clause(table.number, _RULES, where, found.number, 2, found.dimensions)
            for prefix in () if found.anybody else _remote(rules[0], view):
                yield from _address(found, prefix, fields)

    @renders(GroupMember)
    def member(self, member: GroupMember, view: View) -> Iterator[Fact]:
        """Of each class whose remote side the group is, the member's addresses.

        A pair of all addresses lets the member send under any, but makes nobody else a member.
        """
        for found in view.where(RuleClass, remote_group=member.group):
            group = view.get(SecurityGroup, found.group)
            if group is None:
                continue
            for address in member.addresses:
                if not address.endswith("/0"):
                    yield from _address(found, address, _fields(group))


def _table(found: RuleClass) -> Table:
    return Rules.sends if found.direction == "egress" else Rules.gets


def _fields(group: SecurityGroup) -> _Fields:
    return _BEGAN if group.stateful else _PACKET


def _address(found: RuleClass, prefix: str, fields: _Fields) -> Iterator[Fact]:
    version = found.ip_version
    if (":" in prefix) != (version == 6):
        return
    address = {} if prefix.endswith("/0") else {fields.remote[found.direction, version]: canonical(prefix)}
    where = match(eth_type=IP[version], **fields.also, **address)
    yield Clause(_table(found).number, _RULES, where, found.number, found.dimensions, found.dimensions)


@lru_cache(maxsize=4096)
def canonical(prefix: str) -> str:
    """The prefix without host bits, which Neutron lets address pairs have."""
    return str(ip_interface(prefix).network) if "/" in prefix else prefix


def _remote(rule: SecurityRule, view: View) -> Iterable[str]:
    """The prefixes of a class's remote side. Those of a group's members are rendered with them."""
    if rule.address_group is not None:
        group = view.get(AddressGroup, rule.address_group)
        return () if group is None else group.addresses
    return () if rule.prefix is None else (rule.prefix,)


def _traffic(rule: SecurityRule, fields: _Fields) -> Iterator[dict[str, Any]]:
    """What a rule that names a protocol speaks of, as fields of a match.

    The ports of DCCP and UDP-Lite, connection tracking alone tells, and only the kernel's: in user space they read as 0, which
    no rule allows. Without connections nothing tells them, and there is no match; nor for types of the other IP version's ICMP.
    """
    protocol = rule.protocol
    if not protocol:  # HOPOPT: where a connection's protocol reads 0 there is none
        yield {"ip_proto": 0}
    elif protocol in _ICMP:
        base = {fields.protocol: protocol}
        if rule.first is None:
            yield base
        if rule.first is None or (protocol == 1) != (rule.ip_version == 4):
            return
        named = zip(fields.icmp[protocol], (rule.first, rule.last), strict=True)
        whole = {} if fields is _BEGAN else {"ip_frag": _NO_LATER_FRAGMENT}
        yield base | whole | {name: value for name, value in named if value is not None}
    elif protocol not in _PORTS or rule.first is None or rule.last is None:
        yield {fields.protocol: protocol}
    elif protocol in fields.ports:
        for value, mask in port_masks(max(rule.first, 1), rule.last):
            yield {fields.protocol: protocol, fields.ports[protocol]: (value, mask)}
