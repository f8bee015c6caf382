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
- For an address of a distributed port, such as a router's interface, and of a floating IP that is here, everything: questions
  to itself and probes too, for nobody else could answer.
- For the metadata service's addresses, in every network, if this chassis serves it and no port has such an address.
- Not for an address that another port names in its allowed address pairs: who has it is for the ports to say (VRRP). That holds
  even where it is known who does (``shared``): a fail-over in the network must not wait for a row.

A claim to somebody else's address (an ARP announcement by another port) is answered in the owner's name, as RFC 5227 §2.4 lets
the owner defend itself, and not spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

from dragonflow.apps.base import App, renders
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.dhcp import Dhcp
from dragonflow.apps.l2 import L2
from dragonflow.apps.metadata import proxy_ofport
from dragonflow.apps.wiring import BACK_TO_SENDER, addresses, floats_here, plugged, standby_ofport
from dragonflow.controller.view import Me, View
from dragonflow.metadata.address import GUESTS_IPV4, GUESTS_IPV6
from dragonflow.metadata.address import MAC as METADATA_MAC
from dragonflow.model import LogicalPort, LogicalSwitch
from dragonflow.packet.nd import OVERRIDE, ROUTER, SOLICITED
from dragonflow.pipeline import (
    NETWORK,
    SOURCE,
    Action,
    Distributed,
    Fact,
    Flow,
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

_PROBE_HERE, _HERE, _PROBE, _OWN, _SHARED, _KNOWN, _METADATA = 60, 50, 40, 40, 30, 20, 10

_TARGET_LINK_LAYER = 2
"""The ND option "target link-layer address"; the solicitation's "source link-layer address" (1) is rewritten into it."""


_BACK_TO_ASKER = move("eth_src", "eth_dst")

_ADVERTISE: tuple[Action, ...] = (
    move("nd_target", "ipv6_src"),
    *set_field(nd_options_type=_TARGET_LINK_LAYER, icmpv6_type=136),
)


_ARP_ANSWER: tuple[Action, ...] = (
    *set_field(arp_op=2),
    move("arp_sha", "arp_tha"),
    move("eth_src", "arp_sha"),
    move("arp_tpa", SCRATCH.field),
    move("arp_spa", "arp_tpa"),
    move(SCRATCH.field, "arp_spa"),
)
"""Turn a request into the answer of the MAC that stands as its sender already."""


class Resolution(App):
    """Local answers to ARP requests and Neighbour Solicitations."""

    name = "resolution"

    advertisement = Table(
        "resolution_advertisement",
        Stage.RESOLUTION,
        slot=2,
        purpose="Complete a Neighbour Advertisement: only as such does it have a target link-layer address to write.",
        matches=("eth_type", "ip_proto", "icmpv6_type", "icmpv6_code"),
        next=(Delivery.delivery,),
    )
    answer = Table(
        "resolution_answer",
        Stage.RESOLUTION,
        slot=1,
        purpose="Turn the question into the answer and send it back. The table before has put its MACs and flags in place.",
        matches=("eth_type", "arp_op", "ip_proto", "icmpv6_type", "icmpv6_code", "ipv6_src"),
        next=(advertisement, Delivery.delivery),
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
        next=(answer, L2.lookup),
        miss=Dhcp.requests,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What is the same for all addresses: leave probes alone, and the making of answers."""
        yield from super().host(me, view)
        yield self.known.flow(_PROBE, match(**_ARP, arp_spa="0.0.0.0"), goto=L2.lookup)
        yield self.known.flow(_PROBE, match(**_SOLICITATION, ipv6_src="::"), goto=L2.lookup)
        yield self.answer.flow(10, match(**_ARP), *_ARP_ANSWER, *BACK_TO_SENDER, goto=Delivery.delivery)
        yield self.answer.flow(
            10,
            match(**_SOLICITATION),
            move("ipv6_src", "ipv6_dst"),
            *_ADVERTISE,
            goto=self.advertisement,
        )
        yield self.answer.flow(
            20,
            match(**_SOLICITATION, ipv6_src="::"),  # nobody has an address there yet: tell all (RFC 4861 §7.2.4)
            *set_field(eth_dst="33:33:00:00:00:01", ipv6_dst="ff02::1"),
            *_ADVERTISE,
            goto=self.advertisement,
        )
        yield self.advertisement.flow(
            10,
            match(**{**_SOLICITATION, "icmpv6_type": 136}),
            move("eth_src", "nd_tll"),
            *BACK_TO_SENDER,
            goto=Delivery.delivery,
        )
        if proxy_ofport(view) is not None:
            for ip in (str(GUESTS_IPV4), str(GUESTS_IPV6)):
                reply = _reply(METADATA_MAC, ip, SOLICITED | OVERRIDE)
                yield self.known.flow(_METADATA, match(**_asks(ip)), *reply, goto=self.answer)

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Answers for the port's addresses; none for those that it may share."""
        where, network = view.locality(port.id), view.get(LogicalSwitch, port.network)
        if network is None:
            return
        if plugged(port, view) is not None or standby_ofport(port, view.me.chassis, view) is not None:
            for ip in port.ips:
                yield self._own_question(port, ip)
        if where is None:
            return
        router = 0 if port.router is None else ROUTER
        for ip in addresses(port):
            if isinstance(where, Distributed) or floats_here(port, where):
                yield from answer_all(self.known, network, ip, port.mac, router)
            else:
                yield self._question(_KNOWN, network, ip, _reply(port.mac, ip, router | SOLICITED | OVERRIDE))
        for pair in port.address_pairs:
            shared = ip_interface(pair.ip)
            if shared.network.num_addresses == 1 and str(shared.ip) not in port.ips:
                yield self._question(_SHARED, network, str(shared.ip), ())

    def _question(self, priority: int, network: LogicalSwitch, ip: str, reply: tuple[Action, ...]) -> Flow:
        """A flooded question for an address: have it answered with the MACs that ``reply`` puts in place, or let it pass."""
        flooded = _IPV6_MULTICAST if ":" in ip else _BROADCAST
        asks = match((NETWORK, network.key), **flooded, **_asks(ip))
        return self.known.flow(priority, asks, *reply, goto=self.answer if reply else L2.lookup)

    def _own_question(self, port: LogicalPort, ip: str) -> Flow:
        """The port asks for its own address: an announcement, or it looks for a duplicate."""
        return self.known.flow(_OWN, match((SOURCE, port.key), **_asks(ip)), goto=L2.lookup)


def answer_all(
    table: Table, network: LogicalSwitch, ip: str, mac: str, flags: int = 0, **questions: Any
) -> Iterator[Flow]:
    """Answer all questions in the network for an address, probes too: that ``mac`` has it.

    ``flags`` are those of a Neighbour Advertisement beside S and O. ``questions`` may narrow down which are answered.
    """
    here, asks = (NETWORK, network.key), {**_asks(ip), **questions}
    reply = _reply(mac, ip, flags | SOLICITED | OVERRIDE)
    yield table.flow(_HERE, match(here, **asks), *reply, goto=Resolution.answer)
    if ":" in ip:
        probes = match(here, **asks, ipv6_src="::")
        yield table.flow(_PROBE_HERE, probes, *_reply(mac, ip, flags | OVERRIDE), goto=Resolution.answer)


def _asks(ip: str) -> dict[str, Any]:
    """What any question for the address holds."""
    return {**_SOLICITATION, "nd_target": ip} if ":" in ip else {**_ARP, "arp_tpa": ip}


def _reply(mac: str, ip: str, flags: int) -> tuple[Action, ...]:
    """Put the MACs of the answer in place, and the flags of a Neighbour Advertisement."""
    macs: tuple[Action, ...] = (_BACK_TO_ASKER, *set_field(eth_src=mac))
    return (*macs, *set_field(nd_reserved=flags)) if ":" in ip else macs
