"""Port security: a port sends under its own addresses, and no DHCP server's or router's messages (Neutron's ``port_security``).

Its addresses are its MAC with its fixed IPs and the link-local address that follows from the MAC, and its allowed address pairs.
ARP and neighbour discovery are held to them too, so nobody can claim another's address. Of what isn't IP only ARP passes, and
what ``[df] permitted_ethertypes`` names; of tagged frames none: a trunk's children's tags are off by now.

What can't be read can't be held to anything, so it is dropped where a receiver may find more in it than the switch does:
neighbour discovery with the same option twice, which the switch reads as none at all, and first fragments that leave the header
of ICMPv6 or UDP to a later one (RFC 7112, RFC 7113).

Flows of a local port: 7 a MAC (1 more a permitted EtherType), 2 an IPv4 address, 4 an IPv6 address; without port security 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dragonflow.apps.base import App, renders
from dragonflow.apps.dhcp.v4 import SERVER_ADDRESS
from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.egress import Egress
from dragonflow.apps.firewall.rules import canonical
from dragonflow.apps.qos import Qos
from dragonflow.apps.wiring import is_here, is_secured, link_local, wired
from dragonflow.controller.view import Me, View
from dragonflow.model import LogicalPort
from dragonflow.pipeline import SOURCE, Fact, Stage, Table, match

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMPV6: dict[str, Any] = {"eth_type": _IPV6, "ip_proto": 58, "icmpv6_code": 0}
_SOLICITATION, _ADVERTISEMENT = 135, 136
_OF_ROUTERS = (134, 137)
"""Router Advertisements and Redirects (RFC 4861)."""

_LISTENER_REPORTS = (131, 143)
"""What MLD sends from no address at all (RFC 3590)."""

_TAGGED = 0x1000, 0x1000
"""``vlan_vid`` of a frame with any tag."""

_FIRST_FRAGMENT = 1
"""``ip_frag`` of a fragment that is the first."""

_UNREADABLE: tuple[dict[str, Any], ...] = (
    {**_ICMPV6, "icmpv6_type": _SOLICITATION, "nd_target": "::"},
    {**_ICMPV6, "icmpv6_type": 0, "ip_frag": _FIRST_FRAGMENT},
    {"eth_type": _IPV6, "ip_proto": 17, "udp_src": 0, "udp_dst": 0, "ip_frag": _FIRST_FRAGMENT},
)

_NOTHING = "00:00:00:00:00:00"
"""A link-layer address option that a message doesn't have reads so."""


class Guard(App):
    """Looks at everything that the ports of this chassis send."""

    name = "guard"

    addresses = Table(
        "guard",
        Stage.EGRESS,
        slot=1,
        purpose="Drop what a port sends under an address that isn't its own.",
        matches=(
            *(SOURCE, "eth_src", "eth_type", "arp_sha", "arp_spa", "ipv4_src", "ipv4_dst", "ipv6_src"),
            *("ip_proto", "udp_src", "udp_dst", "icmpv6_type", "icmpv6_code", "nd_target"),
        ),
        next=(Egress.track, Qos.sent),
        miss=Drops.sent,
    )
    claims = Table(
        "claims",
        Stage.EGRESS,
        purpose="Drop what only DHCP servers and routers send, and claims to addresses that aren't the port's.",
        matches=(
            *(SOURCE, "eth_type", "vlan_vid", "ip_frag", "ip_proto", "udp_src", "udp_dst"),
            *("icmpv6_type", "icmpv6_code", "nd_target", "nd_sll", "nd_tll"),
        ),
        next=(addresses, Drops.sent, Qos.sent),
        miss=addresses,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """What nobody may send."""
        yield from super().host(me, view)
        for eth_type, source, destination in ((_IPV4, 67, 68), (_IPV6, 547, 546)):
            serves = match(eth_type=eth_type, ip_proto=17, udp_src=source, udp_dst=destination)
            yield self.claims.flow(20, serves, goto=Drops.sent)
        for fields in ({"vlan_vid": _TAGGED}, *_UNREADABLE):
            yield self.claims.flow(35, match(**fields), goto=Drops.sent)
        for kind in (*_OF_ROUTERS, _SOLICITATION, _ADVERTISEMENT):
            yield self.claims.flow(20, match(**_ICMPV6, icmpv6_type=kind), goto=Drops.sent)

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """What the port may send."""
        if wired(port, view.me.chassis, view) is None:
            return
        if not is_secured(port):
            yield self.claims.flow(40, match((SOURCE, port.key)), goto=Qos.sent)
            return
        for mac, addresses in sorted(own_addresses(port).items()):
            yield from self._of_mac(port, mac, view.me)
            for address in sorted(addresses):
                make = self._ipv6 if ":" in address else self._ipv4
                yield from make(port, mac, address)

    def _of_mac(self, port: LogicalPort, mac: str, me: Me) -> Iterator[Fact]:
        """What a port sends whatever its address is."""
        own: dict[str, Any] = {"eth_src": mac}
        asks: dict[str, Any] = {"eth_type": _IPV4, "ip_proto": 17, "udp_src": 68, "udp_dst": 67}
        # also under an address that was its own: it has to be told so
        for server in ("255.255.255.255", str(SERVER_ADDRESS)):
            yield self._pass(port, ipv4_dst=server, **own, **asks)
        yield self._pass(port, Qos.sent, eth_type=_ARP, arp_sha=mac, arp_spa="0.0.0.0", **own)
        for kind in _LISTENER_REPORTS:
            yield self._pass(port, **_ICMPV6, icmpv6_type=kind, ipv6_src="::", **own)
        for said in (mac, _NOTHING):
            yield self._claim(port, icmpv6_type=_SOLICITATION, nd_sll=said)
        for eth_type in me.permitted_ethertypes:
            yield self._pass(port, Qos.sent, eth_type=eth_type, **own)

    def _ipv4(self, port: LogicalPort, mac: str, address: str) -> Iterator[Fact]:
        yield self._pass(port, eth_src=mac, eth_type=_IPV4, **_within("ipv4_src", address))
        yield self._pass(port, Qos.sent, eth_src=mac, eth_type=_ARP, arp_sha=mac, **_within("arp_spa", address))

    def _ipv6(self, port: LogicalPort, mac: str, address: str) -> Iterator[Fact]:
        target = _within("nd_target", address)
        yield self._pass(port, eth_src=mac, eth_type=_IPV6, **_within("ipv6_src", address))
        yield self._pass(port, eth_src=mac, **_ICMPV6, icmpv6_type=_SOLICITATION, ipv6_src="::", **target)
        for said in (mac, _NOTHING):
            yield self._claim(port, icmpv6_type=_ADVERTISEMENT, nd_tll=said, **target)

    def _pass(self, port: LogicalPort, to: Table = Egress.track, **fields: Any) -> Fact:
        return self.addresses.flow(10, match((SOURCE, port.key), **fields), goto=to)

    def _claim(self, port: LogicalPort, **fields: Any) -> Fact:
        return self.claims.flow(30, match((SOURCE, port.key), **_ICMPV6, **fields), goto=self.addresses)


def _within(field: str, prefix: str) -> dict[str, Any]:
    """A condition that the field holds an address of the prefix; none if that is all addresses."""
    return {} if prefix.endswith("/0") else {field: canonical(prefix)}


def own_addresses(port: LogicalPort) -> dict[str, set[str]]:
    """The addresses under which the port may send, by the MAC that goes with them."""
    found = {port.mac: {*port.ips, link_local(port.mac)}}
    for pair in port.address_pairs:
        mac = pair.mac or port.mac
        found.setdefault(mac, {link_local(mac)}).add(pair.ip)
    return found
