"""Answers "who has this address" at the asker's own chassis, for addresses of which the DF DB knows the owner (ARP, IPv6 ND).

What is answered, and what isn't:

- Only what would be flooded: ARP requests to the broadcast address (RFC 826) and Neighbour Solicitations to a multicast address
  (RFC 4861 §7.2.2). A unicast solicitation asks "are you still there?"; only the owner can tell, so it is delivered.
- Never duplicate address detection: ARP probes, whose sender address is 0.0.0.0 (RFC 5227), and solicitations from ``::`` (RFC
  4862 §5.4) are flooded, so whoever has the address says so itself. Nor a port's own address asked for by the port itself, as
  announcements do.
- Not a port's question for its own address either where it is only prepared: a guest that wakes at the destination of a live
  migration announces itself before Neutron has moved the binding.
- Only for ports that have a place. An address whose port is bound nowhere, or to a chassis that can't be reached, stays
  unanswered: the question is flooded and the silence is true.
- Not for an address that another port names in its allowed address pairs: who has it is for the ports to say (VRRP).

A claim to somebody else's address (an ARP announcement by another port) is answered in the owner's name, as RFC 5227 §2.4 lets
the owner defend itself, and not spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from dragonflow.apps.base import App, renders
from dragonflow.apps.l2 import L2
from dragonflow.apps.wiring import standby_ofport
from dragonflow.controller.view import Me, View
from dragonflow.model import LogicalPort, LogicalSwitch
from dragonflow.pipeline import (
    IN_PORT,
    NETWORK,
    SOURCE,
    Action,
    Fact,
    Flow,
    Local,
    Output,
    Stage,
    Table,
    match,
    move,
    set_field,
)
from dragonflow.pipeline.registers import SCRATCH

_ARP = {"eth_type": 0x0806, "arp_op": 1}
_SOLICITATION = {"eth_type": 0x86DD, "ip_proto": 58, "icmpv6_type": 135, "icmpv6_code": 0}
_BROADCAST = {"eth_dst": "ff:ff:ff:ff:ff:ff"}
_IPV6_MULTICAST = {"eth_dst": "33:33:00:00:00:00/ff:ff:00:00:00:00"}

_PROBE, _OWN, _SHARED, _KNOWN = 40, 40, 30, 20

_SOLICITED_OVERRIDE = 0x60000000
"""Flags S and O of a Neighbour Advertisement, as its reserved word holds them (RFC 4861 §4.4). R is for routers."""

_TARGET_LINK_LAYER = 2
"""The ND option "target link-layer address"; the solicitation's "source link-layer address" (1) is rewritten into it."""


_BACK_TO_ASKER = move("eth_src", "eth_dst")


class Resolution(App):
    """Local answers to ARP requests and Neighbour Solicitations."""

    name = "resolution"

    advertisement = Table(
        "resolution_advertisement",
        Stage.RESOLUTION,
        slot=2,
        purpose="Complete a Neighbour Advertisement: only as such does it have a target link-layer address to write.",
        matches=("eth_type", "ip_proto", "icmpv6_type", "icmpv6_code"),
    )
    answer = Table(
        "resolution_answer",
        Stage.RESOLUTION,
        slot=1,
        purpose="Turn the question into the answer and send it back. The known table has put the answer's MACs in place.",
        matches=("eth_type", "arp_op", "ip_proto", "icmpv6_type", "icmpv6_code"),
        next=(advertisement,),
    )
    known = Table(
        "resolution",
        Stage.RESOLUTION,
        purpose="Pick out questions for addresses whose owner is known.",
        matches=(
            NETWORK,
            SOURCE,
            "eth_dst",
            "eth_type",
            "arp_op",
            "arp_spa",
            "arp_tpa",
            "ip_proto",
            "icmpv6_type",
            "icmpv6_code",
            "ipv6_src",
            "nd_target",
        ),
        next=(answer,),
        miss=L2.lookup,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What is the same for all addresses: leave probes alone, and the making of answers."""
        yield from super().host(me, view)
        yield self.known.flow(_PROBE, match(**_ARP, arp_spa="0.0.0.0"), goto=L2.lookup)
        yield self.known.flow(_PROBE, match(**_SOLICITATION, ipv6_src="::"), goto=L2.lookup)
        yield self.answer.flow(
            10,
            match(**_ARP),
            *set_field(arp_op=2),
            move("arp_sha", "arp_tha"),
            move("eth_src", "arp_sha"),
            move("arp_tpa", SCRATCH.field),
            move("arp_spa", "arp_tpa"),
            move(SCRATCH.field, "arp_spa"),
            Output(IN_PORT),
        )
        yield self.answer.flow(
            10,
            match(**_SOLICITATION),
            move("ipv6_src", "ipv6_dst"),
            move("nd_target", "ipv6_src"),
            *set_field(nd_options_type=_TARGET_LINK_LAYER, nd_reserved=_SOLICITED_OVERRIDE, icmpv6_type=136),
            goto=self.advertisement,
        )
        yield self.advertisement.flow(
            10, match(**{**_SOLICITATION, "icmpv6_type": 136}), move("eth_src", "nd_tll"), Output(IN_PORT)
        )

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Answers for the port's addresses; none for those that it may share."""
        where, network = view.locality(port.id), view.get(LogicalSwitch, port.network)
        if network is None:
            return
        if isinstance(where, Local) or standby_ofport(port, view.me.chassis, view) is not None:
            for ip in port.ips:
                yield self._own_question(port, ip)
        if where is None:
            return
        reply: tuple[Action, ...] = (_BACK_TO_ASKER, *set_field(eth_src=port.mac))
        for ip in port.ips:
            yield self._question(_KNOWN, network, ip, reply)
        for pair in port.address_pairs:
            shared = ip_interface(pair.ip)
            if shared.network.num_addresses == 1 and str(shared.ip) not in port.ips:
                yield self._question(_SHARED, network, str(shared.ip), ())

    def _question(self, priority: int, network: LogicalSwitch, ip: str, reply: tuple[Action, ...]) -> Flow:
        """A flooded question for an address: have it answered with the MACs that ``reply`` puts in place, or let it pass."""
        key = (NETWORK, network.key)
        if ":" in ip:
            asks = match(key, **_IPV6_MULTICAST, **_SOLICITATION, nd_target=ip)
        else:
            asks = match(key, **_BROADCAST, **_ARP, arp_tpa=ip)
        return self.known.flow(priority, asks, *reply, goto=self.answer if reply else L2.lookup)

    def _own_question(self, port: LogicalPort, ip: str) -> Flow:
        """The port asks for its own address: an announcement, or it looks for a duplicate."""
        if ":" in ip:
            asks = match((SOURCE, port.key), **_SOLICITATION, nd_target=ip)
        else:
            asks = match((SOURCE, port.key), **_ARP, arp_tpa=ip)
        return self.known.flow(_OWN, asks, goto=L2.lookup)
